// What the parts of the example share. Images are row by row; x runs to the right, y down; pixel centres are integers.
#pragma once

#include <array>
#include <cstddef>
#include <map>
#include <string>
#include <vector>

struct Array {  // an .npy file: float32 or uint8, as floats
  std::vector<size_t> shape;
  std::vector<float> values;
  bool bytes = false;  // whether the file holds uint8
};

struct Box {
  double x, y, w, h;
};

// The keys of model.json that are needed here, by their dotted names: "preprocessing.crop.expand" -> {"1.2"}.
// A list has one entry for each element.
using About = std::map<std::string, std::vector<std::string>>;

using Outputs = std::map<std::string, Array>;

// Crop pixel c shows the image at step * c + corner.
struct Crop {
  std::vector<float> pixels;  // [1, S, S, C] in [0, 1]
  double step, x, y;
};

// model.cpp
About read_json(const std::string& path);
double number(const About& about, const std::string& key, size_t index = 0);
std::vector<double> numbers(const About& about, const std::string& key);
const std::string& text(const About& about, const std::string& key, size_t index = 0);
Array read_npy(const std::string& path);

class Model {
 public:
  explicit Model(const std::string& folder);
  ~Model();
  Model(const Model&) = delete;
  Outputs run(const std::vector<float>& crop) const;
  const About about;

 private:
  struct Runtime;
  Runtime* runtime;
};

// preprocess.cpp
Crop make_crop(Array image, Box box, const About& about);

// decode.cpp: landmarks [K, 2] or boxes [F, 4], in pixels of the image
Array decode(const Outputs& found, const Crop& crop, const Array& image, const About& about);
