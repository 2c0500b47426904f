"""Networks as files for phones, boards, browsers and C++: TFLite, ONNX and StableHLO, and all that their use takes."""
