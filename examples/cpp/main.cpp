// Runs an exported ONNX file: see README.md.
//
//   landmarks DIR                             checks DIR/vectors
//   landmarks DIR image.npy 43,48,108,133     landmarks of the face in a box x,y,w,h
//   landmarks DIR image.npy                   boxes, if DIR has the detector
#include <cmath>
#include <cstdio>
#include <exception>
#include <sstream>
#include <stdexcept>

#include "landmarks.h"

namespace {

constexpr double kTolerance = 0.05;  // pixels

Array predict(const Model& model, const Array& image, Box box) {
  const Crop crop = make_crop(image, box, model.about);
  return decode(model.run(crop.pixels), crop, image, model.about);
}

double check(const Model& model, const std::string& folder) {
  const About cases = read_json(folder + "/vectors.json");
  double largest = 0;
  for (size_t k = 0; k < cases.at("name").size(); ++k) {
    const auto array = [&](const char* name) { return read_npy(folder + "/" + text(cases, std::string("arrays.") + name, k)); };
    const Array box = array("box"), wanted = array("result");
    const Array found = predict(model, array("image"), {box.values[0], box.values[1], box.values[2], box.values[3]});
    double apart = found.shape == wanted.shape && !found.values.empty() ? 0 : INFINITY;
    for (size_t i = 0; i < found.values.size() && std::isfinite(apart); ++i)
      apart = std::fmax(apart, std::fabs(found.values[i] - wanted.values[i]));
    std::printf("%-10s result within %.4f pixels\n", text(cases, "name", k).c_str(), apart);
    largest = std::fmax(largest, apart);
  }
  return largest;
}

Box parse(const std::string& words) {
  std::stringstream given(words);
  Box box{};
  char comma;
  if (!(given >> box.x >> comma >> box.y >> comma >> box.w >> comma >> box.h) || box.w <= 0 || box.h <= 0)
    throw std::runtime_error("the box must be x,y,w,h in pixels");
  return box;
}

}  // namespace

int main(int count, char** words) try {
  if (count < 2 || count > 4) throw std::runtime_error("usage: landmarks DIR [image.npy [x,y,w,h]]");
  const Model model(words[1]);
  if (count == 2) return check(model, std::string(words[1]) + "/vectors") <= kTolerance ? 0 : 1;
  if (count == 3 && !model.about.count("preprocessing.longest"))
    throw std::runtime_error("this file finds landmarks in a box; give x,y,w,h");
  const Array found = predict(model, read_npy(words[2]), count > 3 ? parse(words[3]) : Box{});
  for (size_t k = 0; k < found.values.size(); ++k)
    std::printf("%.2f%c", found.values[k], (k + 1) % found.shape[1] ? ' ' : '\n');
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "landmarks: %s\n", error.what());
  return 2;
}
