// libtorch's own messages, while memory is measured.
#pragma once

#include <c10/util/Logging.h>

#include <mutex>

namespace shim {

// While one exists, libtorch logs errors but no warnings. Its CPU allocator would warn of memory
// that was allocated before an observation and is freed during it, which is no fault. The threshold
// is that of the process, so the existing ones are counted.
class ErrorsAlone {
  inline static std::mutex mutex;
  inline static int living = 0;
  inline static int before = 0;

 public:
  ErrorsAlone() {
    std::lock_guard<std::mutex> lock(mutex);
    if (living++ == 0) {
      before = FLAGS_caffe2_log_level;
      FLAGS_caffe2_log_level = std::max<int>(before, c10::GLOG_ERROR);
    }
  }
  ~ErrorsAlone() {
    std::lock_guard<std::mutex> lock(mutex);
    if (--living == 0) {
      FLAGS_caffe2_log_level = before;
    }
  }
  ErrorsAlone(const ErrorsAlone&) = delete;
  ErrorsAlone& operator=(const ErrorsAlone&) = delete;
};

} // namespace shim
