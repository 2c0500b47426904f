// Reads model.json and .npy files, and runs the ONNX file with the C API of ONNX Runtime.
#include <onnxruntime_c_api.h>

#include <cctype>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <numeric>
#include <sstream>
#include <stdexcept>

#include "landmarks.h"

namespace {

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  std::stringstream content;
  content << file.rdbuf();
  return content.str();
}

// Flattens JSON into About. It is enough for the files that `mlcm export` writes; use a JSON library for others.
class Flattener {
 public:
  Flattener(const std::string& json, About& about) : json_(json), about_(about) {}
  void value(const std::string& key) {
    skip();
    if (json_[at_] == '{') {
      group('}', [&] {
        const std::string name = word();
        skip();
        ++at_;  // the colon
        value(key.empty() ? name : key + "." + name);
      });
    } else if (json_[at_] == '[') {
      group(']', [&] { value(key); });
    } else {
      about_[key].push_back(word());
    }
  }

 private:
  void skip() {
    while (at_ < json_.size() && std::isspace(static_cast<unsigned char>(json_[at_]))) ++at_;
  }
  void group(char end, const std::function<void()>& element) {
    ++at_;
    for (skip(); json_.at(at_) != end; skip()) {
      element();
      skip();
      if (json_.at(at_) == ',') ++at_;
    }
    ++at_;
  }
  std::string word() {  // text without its quotes, or a number
    skip();
    std::string out;
    if (json_.at(at_) != '"') {
      while (std::string(",]} \n\r\t").find(json_.at(at_)) == std::string::npos) out += json_[at_++];
      return out;
    }
    for (++at_; json_.at(at_) != '"'; ++at_) {
      if (json_[at_] == '\\') ++at_;
      out += json_.at(at_);
    }
    ++at_;
    return out;
  }

  const std::string& json_;
  About& about_;
  size_t at_ = 0;
};

const OrtApi& api() {
  static const OrtApi* found = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (!found) throw std::runtime_error("the library of ONNX Runtime is older than its header");
  return *found;
}

void check(OrtStatus* status) {
  if (!status) return;
  const std::string message = api().GetErrorMessage(status);
  api().ReleaseStatus(status);
  throw std::runtime_error(message);
}

}  // namespace

About read_json(const std::string& path) {
  About about;
  const std::string json = read_file(path);
  Flattener(json, about).value("");
  return about;
}

const std::string& text(const About& about, const std::string& key, size_t index) {
  const auto found = about.find(key);
  if (found == about.end() || found->second.size() <= index) throw std::runtime_error("model.json lacks " + key);
  return found->second[index];
}

double number(const About& about, const std::string& key, size_t index) {
  return std::strtod(text(about, key, index).c_str(), nullptr);
}

std::vector<double> numbers(const About& about, const std::string& key) {
  std::vector<double> out;
  const auto found = about.find(key);
  if (found == about.end()) return out;
  for (const auto& one : found->second) out.push_back(std::strtod(one.c_str(), nullptr));
  return out;
}

Array read_npy(const std::string& path) {
  const std::string content = read_file(path);
  if (content.size() < 12 || content.compare(1, 5, "NUMPY") != 0 || content[6] != 1)
    throw std::runtime_error(path + " is no .npy file of version 1");
  const size_t start = 10 + static_cast<unsigned char>(content[8]) + 256 * static_cast<unsigned char>(content[9]);
  const std::string header = content.substr(10, start - 10);
  Array out;
  out.bytes = header.find("'|u1'") != std::string::npos;
  if (!out.bytes && header.find("'<f4'") == std::string::npos)
    throw std::runtime_error(path + " is neither uint8 nor float32");
  if (header.find("'fortran_order': False") == std::string::npos)
    throw std::runtime_error(path + " is not row by row");
  std::stringstream sizes(header.substr(header.find("'shape': (") + 10));
  size_t count = 1;
  for (size_t side; sizes >> side; sizes.ignore(1)) {
    out.shape.push_back(side);
    count *= side;
  }
  if (content.size() < start + count * (out.bytes ? 1 : 4)) throw std::runtime_error(path + " is cut short");
  out.values.resize(count);
  for (size_t k = 0; k < count; ++k) {
    if (out.bytes)
      out.values[k] = static_cast<unsigned char>(content[start + k]);
    else
      std::char_traits<char>::copy(reinterpret_cast<char*>(&out.values[k]), &content[start + 4 * k], 4);
  }
  return out;
}

struct Model::Runtime {
  OrtEnv* env = nullptr;
  OrtSession* session = nullptr;
  OrtMemoryInfo* memory = nullptr;
};

Model::Model(const std::string& folder) : about(read_json(folder + "/model.json")), runtime(new Runtime) {
  OrtSessionOptions* options = nullptr;
  check(api().CreateEnv(ORT_LOGGING_LEVEL_WARNING, "landmarks", &runtime->env));
  check(api().CreateSessionOptions(&options));
  check(api().SetIntraOpNumThreads(options, 1));
  const std::string content = read_file(folder + "/" + text(about, "file"));
  check(api().CreateSessionFromArray(runtime->env, content.data(), content.size(), options, &runtime->session));
  api().ReleaseSessionOptions(options);
  check(api().CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &runtime->memory));
}

Model::~Model() {
  if (runtime->memory) api().ReleaseMemoryInfo(runtime->memory);
  if (runtime->session) api().ReleaseSession(runtime->session);
  if (runtime->env) api().ReleaseEnv(runtime->env);
  delete runtime;
}

Outputs Model::run(const std::vector<float>& crop) const {
  std::vector<int64_t> shape;
  for (double side : numbers(about, "input.shape")) shape.push_back(static_cast<int64_t>(side));
  OrtValue* input = nullptr;
  check(api().CreateTensorWithDataAsOrtValue(runtime->memory, const_cast<float*>(crop.data()),
                                             crop.size() * sizeof(float), shape.data(), shape.size(),
                                             ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &input));
  const auto& names = about.at("outputs.name");
  std::vector<const char*> wanted;
  for (const auto& name : names) wanted.push_back(name.c_str());
  std::vector<OrtValue*> values(names.size(), nullptr);
  const char* const inputs[] = {text(about, "input.name").c_str()};
  OrtStatus* status = api().Run(runtime->session, nullptr, inputs, &input, 1, wanted.data(), wanted.size(), values.data());
  api().ReleaseValue(input);
  check(status);
  Outputs out;
  for (size_t k = 0; k < names.size(); ++k) {
    OrtTensorTypeAndShapeInfo* info = nullptr;
    size_t rank = 0;
    check(api().GetTensorTypeAndShape(values[k], &info));
    check(api().GetDimensionsCount(info, &rank));
    std::vector<int64_t> sides(rank);
    check(api().GetDimensions(info, sides.data(), rank));
    api().ReleaseTensorTypeAndShapeInfo(info);
    const auto count = std::accumulate(sides.begin(), sides.end(), int64_t{1}, std::multiplies<int64_t>());
    void* data = nullptr;
    check(api().GetTensorMutableData(values[k], &data));
    const float* first = static_cast<const float*>(data);
    out[names[k]] = {{sides.begin(), sides.end()}, {first, first + count}};
    api().ReleaseValue(values[k]);
  }
  return out;
}
