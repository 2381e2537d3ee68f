// The functions that the Rust side of `torch/` calls. They are `extern "C"` and let no C++
// exception escape. Those that return a status return 0 on success; otherwise `pipe_error()`
// returns the message on the same thread.
#pragma once

#include <ATen/ATen.h>

#include <string>

namespace shim {

// Stores `message` for the next `pipe_error()` of this thread.
void remember(std::string message) noexcept;

// Runs `body` and turns an exception into a status.
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
