#include "shim.h"

namespace shim {

static thread_local std::string last_error;

void remember(std::string message) noexcept {
  last_error = std::move(message);
}

} // namespace shim

// The message of this thread's last failed call. It is valid until the next failed call.
extern "C" const char* pipe_error() {
  return shim::last_error.c_str();
}
