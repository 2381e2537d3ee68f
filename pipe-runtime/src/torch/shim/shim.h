// The functions that the Rust side of `torch/` calls. Each is `extern "C"`, catches all C++
// exceptions, and returns 0 on success. Otherwise `pipe_error()` on the same thread has the
// message.
#pragma once

#include <ATen/ATen.h>

#include <string>

namespace shim {

// Stores `message` for the next `pipe_error()` of this thread.
void remember(std::string message) noexcept;

// What an exception says, without the stack that libtorch's own ones have.
inline std::string words(const std::exception& error) {
  const auto* of_libtorch = dynamic_cast<const c10::Error*>(&error);
  return of_libtorch ? of_libtorch->what_without_backtrace() : error.what();
}

// Runs `body`, and turns an exception into a status.
template <typename Body>
int guarded(Body&& body) noexcept {
  try {
    body();
    return 0;
  } catch (const std::exception& error) {
    remember(words(error));
  } catch (...) {
    remember("a C++ exception that is not a std::exception");
  }
  return 1;
}

} // namespace shim
