#include "shim.h"

namespace pipe {

static thread_local std::string last_error;

void remember(std::string message) noexcept {
  last_error = std::move(message);
}

} // namespace pipe

// The message of this thread's last failed call; valid until the next one.
extern "C" const char* pipe_error() {
  return pipe::last_error.c_str();
}
