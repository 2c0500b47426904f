// Stands in for the header of ONNX Runtime, which no Python package ships, so that the C++ example can be tested with the
// library that the package onnxruntime does ship. It declares what the example uses, at the places in the table of
// functions that version 1 of the API fixed for good; the numbers count the functions before them.
#pragma once

#include <stddef.h>
#include <stdint.h>

#define ORT_API_VERSION 17

typedef struct OrtEnv OrtEnv;
typedef struct OrtStatus OrtStatus;
typedef struct OrtSession OrtSession;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtRunOptions OrtRunOptions;
typedef struct OrtValue OrtValue;
typedef struct OrtMemoryInfo OrtMemoryInfo;
typedef struct OrtTensorTypeAndShapeInfo OrtTensorTypeAndShapeInfo;
typedef enum { ORT_LOGGING_LEVEL_WARNING = 2 } OrtLoggingLevel;
typedef enum { OrtArenaAllocator = 1 } OrtAllocatorType;
typedef enum { OrtMemTypeDefault = 0 } OrtMemType;
typedef enum { ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1 } ONNXTensorElementDataType;

typedef struct OrtApi {
  void* first[2];
  const char* (*GetErrorMessage)(const OrtStatus*);                                                              // 2
  OrtStatus* (*CreateEnv)(OrtLoggingLevel, const char*, OrtEnv**);                                               // 3
  void* from_4[4];
  OrtStatus* (*CreateSessionFromArray)(const OrtEnv*, const void*, size_t, const OrtSessionOptions*, OrtSession**);  // 8
  OrtStatus* (*Run)(OrtSession*, const OrtRunOptions*, const char* const*, const OrtValue* const*, size_t,
                    const char* const*, size_t, OrtValue**);                                                     // 9
  OrtStatus* (*CreateSessionOptions)(OrtSessionOptions**);                                                       // 10
  void* from_11[13];
  OrtStatus* (*SetIntraOpNumThreads)(OrtSessionOptions*, int);                                                   // 24
  void* from_25[24];
  OrtStatus* (*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo*, void*, size_t, const int64_t*, size_t,
                                               ONNXTensorElementDataType, OrtValue**);                           // 49
  void* from_50;
  OrtStatus* (*GetTensorMutableData)(OrtValue*, void**);                                                         // 51
  void* from_52[9];
  OrtStatus* (*GetDimensionsCount)(const OrtTensorTypeAndShapeInfo*, size_t*);                                   // 61
  OrtStatus* (*GetDimensions)(const OrtTensorTypeAndShapeInfo*, int64_t*, size_t);                               // 62
  void* from_63[2];
  OrtStatus* (*GetTensorTypeAndShape)(const OrtValue*, OrtTensorTypeAndShapeInfo**);                             // 65
  void* from_66[3];
  OrtStatus* (*CreateCpuMemoryInfo)(OrtAllocatorType, OrtMemType, OrtMemoryInfo**);                              // 69
  void* from_70[22];
  void (*ReleaseEnv)(OrtEnv*);                                                                                   // 92
  void (*ReleaseStatus)(OrtStatus*);                                                                             // 93
  void (*ReleaseMemoryInfo)(OrtMemoryInfo*);                                                                     // 94
  void (*ReleaseSession)(OrtSession*);                                                                           // 95
  void (*ReleaseValue)(OrtValue*);                                                                               // 96
  void* from_97[2];
  void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo*);                                             // 99
  void (*ReleaseSessionOptions)(OrtSessionOptions*);                                                             // 100
} OrtApi;

typedef struct {
  const OrtApi* (*GetApi)(uint32_t);
  const char* (*GetVersionString)(void);
} OrtApiBase;

#ifdef __cplusplus
extern "C"
#endif
const OrtApiBase* OrtGetApiBase(void);
