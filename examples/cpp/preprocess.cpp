// From an image and a box to the input of the network, as `preprocessing` of model.json says.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>

#include "landmarks.h"

namespace {

struct Image {
  int width, height, channels;
  std::vector<float> values;
  bool bytes;
  float& at(int row, int column, int channel = 0) { return values[(size_t(row) * width + column) * channels + channel]; }
  float at(int row, int column, int channel = 0) const {
    return values[(size_t(row) * width + column) * channels + channel];
  }
};

// Rounds halves to the even number, as numpy does.
float level(double value) { return static_cast<float>(std::nearbyint(std::clamp(value, 0.0, 255.0))); }

// The percentile of sorted values, by linear interpolation.
double percentile(const std::vector<float>& sorted, double percent) {
  const double place = percent / 100 * (sorted.size() - 1);
  const size_t below = static_cast<size_t>(place), above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - below) * (double(sorted[above]) - sorted[below]);
}

// Gives every hole the gray level of the nearest pixel that is none.
void fill(Image& gray, const Image& image) {
  const Image known = gray;
  for (int row = 0; row < image.height; ++row)
    for (int column = 0; column < image.width; ++column) {
      if (std::isfinite(image.at(row, column))) continue;
      double nearest = std::numeric_limits<double>::infinity();
      for (int reach = 1; reach <= std::max(image.width, image.height) && nearest > double(reach) * reach / 4; reach *= 2)
        for (int r = std::max(0, row - reach); r <= std::min(image.height - 1, row + reach); ++r)
          for (int c = std::max(0, column - reach); c <= std::min(image.width - 1, column + reach); ++c) {
            const double apart = double(r - row) * (r - row) + double(c - column) * (c - column);
            if (apart < nearest && std::isfinite(image.at(r, c))) {
              nearest = apart;
              gray.at(row, column) = known.at(r, c);
            }
          }
    }
}

std::vector<float> finite(const Image& image, int top, int bottom, int left, int right) {
  std::vector<float> out;
  for (int row = top; row < bottom; ++row)
    for (int column = left; column < right; ++column)
      if (std::isfinite(image.at(row, column))) out.push_back(image.at(row, column));
  return out;
}

Image box_gain(const Image& image, Box box, const About& about) {
  const auto inside = [](double from, double size, int side) {
    return std::pair<int, int>{std::max(0, int(std::ceil(from))), std::clamp(int(std::ceil(from + size)), 0, side)};
  };
  const auto [left, right] = inside(box.x, box.w, image.width);
  const auto [top, bottom] = inside(box.y, box.h, image.height);
  std::vector<float> values = finite(image, top, bottom, left, right);
  if (values.size() < number(about, "preprocessing.gain.fewest")) values = finite(image, 0, image.height, 0, image.width);
  Image gray = image;
  if (values.empty()) {
    std::fill(gray.values.begin(), gray.values.end(), 0.0f);
    return gray;
  }
  std::sort(values.begin(), values.end());
  double low = percentile(values, number(about, "preprocessing.gain.percentiles", 0));
  double high = percentile(values, number(about, "preprocessing.gain.percentiles", 1));
  if (!(high > low)) low = values.front(), high = values.back();
  const double first = number(about, "preprocessing.gain.levels", 0), last = number(about, "preprocessing.gain.levels", 1);
  const double slope = (last - first) / (high - low);
  // The training computes in this type; a gray level that is wrong by one moves the landmarks of int8 files.
  const auto gray_of = [&](float value) -> double {
    if (image.bytes) return (value - low) * slope + first;
    return (value - float(low)) * float(slope) + float(first);
  };
  for (float& value : gray.values) {
    if (!std::isfinite(value))
      value = 0;
    else if (high > low)
      value = level(gray_of(value));
    else
      value = value > low ? 255.0f : value < low ? 0.0f : 128.0f;
  }
  fill(gray, image);
  return gray;
}

Image scene_gain(const Image& image, const About& about) {
  const std::vector<double> percents = numbers(about, "preprocessing.gain.percentiles");
  std::vector<float> values = finite(image, 0, image.height, 0, image.width);
  Image gray = image;
  std::fill(gray.values.begin(), gray.values.end(), 0.0f);
  if (values.empty()) return gray;
  std::vector<double> knots;
  if (image.bytes) {
    std::sort(values.begin(), values.end());
    for (double percent : percents) knots.push_back(values[size_t(percent / 100 * (values.size() - 1))]);
  } else {
    size_t step = values.size() / 20000 + 1;
    while (std::gcd(step, size_t(image.width)) > 1) ++step;
    std::vector<float> some;
    for (size_t k = 0; k < values.size(); k += step) some.push_back(values[k]);
    std::sort(some.begin(), some.end());
    for (double percent : percents) knots.push_back(percentile(some, percent));
    knots.front() = *std::min_element(values.begin(), values.end());
    knots.back() = *std::max_element(values.begin(), values.end());
  }
  std::vector<double> steps, sorted, heights{0.0};
  for (size_t k = 1; k < knots.size(); ++k) steps.push_back(knots[k] - knots[k - 1]);
  sorted = steps;
  std::sort(sorted.begin(), sorted.end());
  const size_t half = sorted.size() / 2;
  const double median = sorted.size() % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
  double unit = std::max(8 * median, (knots[knots.size() - 4] - knots[3]) / 64);
  if (unit <= 0) unit = sorted.back();
  if (unit <= 0) return gray;
  for (double one : steps) heights.push_back(heights.back() + std::log1p(one / unit));
  for (size_t k = 0; k < image.values.size(); ++k) {
    const double value = image.values[k];
    if (!std::isfinite(value)) continue;
    size_t next = std::upper_bound(knots.begin(), knots.end(), value) - knots.begin();
    double height = heights.back();
    if (next == 0)
      height = 0;
    else if (next < knots.size()) {
      // Of equal knots, the first counts: the curve rises before them, not at them.
      const size_t before = std::lower_bound(knots.begin(), knots.end(), knots[next - 1]) - knots.begin();
      height = heights[before] + (value - knots[before]) / (knots[next] - knots[before]) * (heights[next] - heights[before]);
    }
    gray.values[k] = level(height * 255 / heights.back());
  }
  fill(gray, image);
  return gray;
}

// Area averages of an image whose longer side is above the limit; returns how many pixels one of its pixels takes.
double reduce(Image& image, double longest) {
  const double scale = std::max(image.width, image.height) / longest;
  if (scale <= 1) return 1;
  const int width = std::max(1, int(std::nearbyint(image.width / scale)));
  const int height = std::max(1, int(std::nearbyint(image.height / scale)));
  Image out{width, height, 1, std::vector<float>(size_t(width) * height), image.bytes};
  const double dx = double(image.width) / width, dy = double(image.height) / height;
  for (int row = 0; row < height; ++row)
    for (int column = 0; column < width; ++column) {
      double sum = 0;
      for (int r = int(row * dy); r < std::min<double>(image.height, (row + 1) * dy); ++r)
        for (int c = int(column * dx); c < std::min<double>(image.width, (column + 1) * dx); ++c)
          sum += image.at(r, c) * (std::min<double>(r + 1, (row + 1) * dy) - std::max<double>(r, row * dy)) *
                 (std::min<double>(c + 1, (column + 1) * dx) - std::max<double>(c, column * dx));
      out.at(row, column) = image.bytes ? level(sum / (dx * dy)) : static_cast<float>(sum / (dx * dy));
    }
  image = out;
  return scale;
}

}  // namespace

Crop make_crop(Array given, Box box, const About& about) {
  const int channels = given.shape.size() > 2 ? int(given.shape[2]) : 1;
  Image image{int(given.shape[1]), int(given.shape[0]), channels, std::move(given.values), given.bytes};
  const std::string gain = text(about, "preprocessing.gain.name");
  if (about.count("preprocessing.thermal_range")) throw std::runtime_error("networks with a thermal_range are not shown here");
  double scale = 1;
  if (about.count("preprocessing.longest")) {  // a detector
    scale = reduce(image, number(about, "preprocessing.longest"));
    box = {0, 0, double(image.width), double(image.height)};
  }
  if (gain == "box") image = box_gain(image, box, about);
  if (gain == "scene") image = scene_gain(image, about);

  const int size = int(number(about, "preprocessing.crop.size"));
  const double step = number(about, "preprocessing.crop.expand") * std::max(box.w, box.h) / size;
  const double x = box.x + box.w / 2 - step * (size - 1) / 2, y = box.y + box.h / 2 - step * (size - 1) / 2;
  const int halvings = int(std::log2(std::max(1.0, step * (1 + 1e-6)))), factor = 1 << halvings;
  const int left = std::max(0, int(x) - 2 * factor), top = std::max(0, int(y) - 2 * factor);
  const int right = std::min(image.width, int(x + step * (size - 1)) + 3 * factor);
  const int bottom = std::min(image.height, int(y + step * (size - 1)) + 3 * factor);
  Image part{std::max(0, (right - left) / factor) * factor, std::max(0, (bottom - top) / factor) * factor, channels, {}, true};
  for (int row = 0; row < part.height; ++row)
    for (int column = 0; column < part.width; ++column)
      for (int k = 0; k < channels; ++k) part.values.push_back(image.at(top + row, left + column, k));
  for (int n = 0; n < halvings; ++n) {
    Image half{part.width / 2, part.height / 2, channels, {}, true};
    for (int row = 0; row < half.height; ++row)
      for (int column = 0; column < half.width; ++column)
        for (int k = 0; k < channels; ++k) {
          const float sum = part.at(2 * row, 2 * column, k) + part.at(2 * row, 2 * column + 1, k) +
                            part.at(2 * row + 1, 2 * column, k) + part.at(2 * row + 1, 2 * column + 1, k);
          half.values.push_back(std::floor((sum + 2) / 4));
        }
    part = half;
  }
  Crop crop{std::vector<float>(size_t(size) * size * channels), step * scale, x * scale + 0.5 * scale - 0.5,
            y * scale + 0.5 * scale - 0.5};
  const auto pixel = [&](int row, int column, int k) {
    return row >= 0 && column >= 0 && row < part.height && column < part.width ? part.at(row, column, k) : 0.0f;
  };
  for (int row = 0; row < size; ++row)
    for (int column = 0; column < size; ++column) {
      const double u = (x + step * column - left + 0.5) / factor - 0.5, v = (y + step * row - top + 0.5) / factor - 0.5;
      const int c = int(std::floor(u)), r = int(std::floor(v));
      for (int k = 0; k < channels; ++k) {
        const double upper = (1 - (u - c)) * pixel(r, c, k) + (u - c) * pixel(r, c + 1, k);
        const double lower = (1 - (u - c)) * pixel(r + 1, c, k) + (u - c) * pixel(r + 1, c + 1, k);
        crop.pixels[(size_t(row) * size + column) * channels + k] = level((1 - (v - r)) * upper + (v - r) * lower) / 255;
      }
    }
  return crop;
}
