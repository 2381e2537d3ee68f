#include "shim.h"

namespace shim {

static thread_local std::string last_error;

void remember(std::string message) noexcept {
  last_error = std::move(message);
}

} // namespace shim

// Returns the message of this thread's last failed call; valid until the next one.
extern "C" const char* pipe_error() {
  return shim::last_error.c_str();
}
