// The functions that the Rust side of `torch/` calls. Each is `extern "C"`, catches all C++
// exceptions, and returns 0 on success. Otherwise `pipe_error()` on the same thread has the
// message.
#pragma once

#include <ATen/ATen.h>

#include <string>

namespace shim {

// Stores `message` for the next `pipe_error()` of this thread.
void remember(std::string message) noexcept;

// Runs `body`, and turns an exception into a status.
template <typename Body>
int guarded(Body&& body) noexcept {
  try {
    body();
    return 0;
  } catch (const c10::Error& error) {
    remember(error.what_without_backtrace());
  } catch (const std::exception& error) {
    remember(error.what());
  } catch (...) {
    remember("a C++ exception that is not a std::exception");
  }
  return 1;
}

} // namespace shim
