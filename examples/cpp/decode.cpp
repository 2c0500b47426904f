// From the outputs of the file to landmarks or boxes in pixels of the image, as `decoding` of model.json says.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "landmarks.h"

namespace {

using Corners = std::array<double, 4>;  // left, top, right, bottom

double iou(const Corners& a, const Corners& b) {
  const double across = std::min(a[2], b[2]) - std::max(a[0], b[0]), along = std::min(a[3], b[3]) - std::max(a[1], b[1]);
  const double both = std::max(0.0, across) * std::max(0.0, along);
  return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both);
}

// Landmarks in u from maps [1, h, w, K] of an int8 file.
std::vector<double> of_maps(const Array& maps, const About& about) {
  const size_t h = maps.shape[1], w = maps.shape[2], count = maps.shape[3];
  const bool softmax = text(about, "decoding.decoder") == "soft_argmax";
  std::vector<double> out;
  for (size_t k = 0; k < count; ++k) {
    float largest = maps.values[k];
    for (size_t cell = 0; cell < h * w; ++cell) largest = std::max(largest, maps.values[cell * count + k]);
    double total = 0, x = 0, y = 0;
    for (size_t cell = 0; cell < h * w; ++cell) {
      const double value = maps.values[cell * count + k], weight = softmax ? std::exp(value - largest) : value;
      total += weight;
      x += weight * ((cell % w + 0.5) / w - 0.5);
      y += weight * ((cell / w + 0.5) / h - 0.5);
    }
    if (!softmax) total = std::max(total, number(about, "decoding.floor"));
    out.push_back(0.5 + x / total);
    out.push_back(0.5 + y / total);
  }
  return out;
}

Array boxes(const Array& scores, const Array& sides, const Crop& crop, const Array& image, const About& about) {
  const int h = int(scores.shape[1]), w = int(scores.shape[2]);
  const double size = number(about, "preprocessing.crop.size"), unit = number(about, "decoding.unit");
  const double threshold = number(about, "decoding.threshold"), limit = std::log(threshold / (1 - threshold));
  std::vector<int> peaks;
  for (int cell = 0; cell < h * w; ++cell) {
    bool best = scores.values[cell] > limit;
    for (int r = std::max(0, cell / w - 1); r <= std::min(h - 1, cell / w + 1); ++r)
      for (int c = std::max(0, cell % w - 1); c <= std::min(w - 1, cell % w + 1); ++c)
        best = best && scores.values[cell] >= scores.values[r * w + c];
    if (best) peaks.push_back(cell);
  }
  std::stable_sort(peaks.begin(), peaks.end(), [&](int a, int b) { return scores.values[a] > scores.values[b]; });
  std::vector<Corners> kept;
  for (int cell : peaks) {
    std::array<double, 4> reach;  // left, right, upper, lower
    for (int k = 0; k < 4; ++k) {
      const double side = sides.values[4 * cell + k];
      reach[k] = unit * std::exp(std::clamp(side, number(about, "decoding.limits", 0), number(about, "decoding.limits", 1)));
    }
    const double x = (cell % w + 0.5) / w, y = (cell / w + 0.5) / h;
    const Corners one{x - reach[0], y - reach[2], x + reach[1], y + reach[3]};
    const bool alone = std::all_of(kept.begin(), kept.end(), [&](const Corners& other) { return iou(one, other) < 0.4; });
    if (alone && kept.size() < 20) kept.push_back(one);
  }
  Array out{{0, 4}, {}};
  for (const Corners& one : kept) {
    const double x = (size * one[0] - 0.5) * crop.step + crop.x, y = (size * one[1] - 0.5) * crop.step + crop.y;
    const double across = size * (one[2] - one[0]) * crop.step, along = size * (one[3] - one[1]) * crop.step;
    const double middle_x = x + across / 2, middle_y = y + along / 2;
    const bool inside = middle_x >= 0 && middle_y >= 0 && middle_x < image.shape[1] - 0.5 && middle_y < image.shape[0] - 0.5;
    if (!inside || std::min(across, along) <= 1.5) continue;
    for (double value : {x, y, across, along}) out.values.push_back(float(value));
    ++out.shape[0];
  }
  return out;
}

}  // namespace

Array decode(const Outputs& found, const Crop& crop, const Array& image, const About& about) {
  const std::string& decoder = text(about, "decoding.decoder");
  if (decoder == "boxes") return boxes(found.at("scores"), found.at("sides"), crop, image, about);
  std::vector<double> points;
  if (decoder == "none")
    points.assign(found.at("landmarks").values.begin(), found.at("landmarks").values.end());
  else
    points = of_maps(found.at("maps"), about);
  const double size = number(about, "preprocessing.crop.size");
  Array out{{points.size() / 2, 2}, {}};
  for (size_t k = 0; k < points.size(); ++k)
    out.values.push_back(float((size * points[k] - 0.5) * crop.step + (k % 2 ? crop.y : crop.x)));
  return out;
}
