// Which nodes were made while graphs of stages were recorded, on any thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <utility>

namespace shim {

// The numbers of the nodes that one thread made while it recorded graphs of stages. Its other
// nodes, made for example while a model is built, may belong to any graph.
class Passes {
 public:
  void add(uint64_t first, uint64_t end) {
    std::lock_guard<std::mutex> lock(mutex_);
    // The ranges of a pipeline inside a layer lie within those of the outer one.
    while (!passes_.empty() && passes_.back().first >= first) {
      passes_.pop_back();
    }
    if (!passes_.empty() && passes_.back().second >= first) {
      passes_.back().second = end;
    } else {
      passes_.emplace_back(first, end);
    }
    // Each call adds at most one entry, and no graph is expected to be kept for this many calls.
    keep_last(65536);
  }

  // The thread has ended, and its graphs will soon, too.
  void end() {
    std::lock_guard<std::mutex> lock(mutex_);
    keep_last(1024);
    passes_.shrink_to_fit();
  }

  bool contain(uint64_t number) {
    std::lock_guard<std::mutex> lock(mutex_);
    auto after = std::upper_bound(
        passes_.begin(), passes_.end(), number, [](uint64_t number, const auto& pass) {
          return number < pass.first;
        });
    return after != passes_.begin() && number < std::prev(after)->second;
  }

 private:
  void keep_last(size_t count) {
    while (passes_.size() > count) {
      passes_.pop_front();
    }
  }

  std::mutex mutex_;
  std::deque<std::pair<uint64_t, uint64_t>> passes_;
};

// For each thread. Never destroyed, because workers may still run while the process ends.
class Threads {
 public:
  Passes& of(uint64_t thread) {
    std::lock_guard<std::mutex> lock(mutex_);
    return passes_[thread];
  }

  bool contain(uint64_t thread, uint64_t number) {
    std::lock_guard<std::mutex> lock(mutex_);
    auto found = passes_.find(thread);
    return found != passes_.end() && found->second.contain(number);
  }

  // Keeps the passes of this thread, which ends now, until so many others have ended: a process may
  // build any number of pipelines, each with threads of its own.
  void end(uint64_t thread) {
    std::lock_guard<std::mutex> lock(mutex_);
    passes_[thread].end();
    ended_.push_back(thread);
    if (ended_.size() > 256) {
      passes_.erase(ended_.front());
      ended_.pop_front();
    }
  }

 private:
  std::mutex mutex_;
  // The entries of a map do not move.
  std::map<uint64_t, Passes> passes_;
  std::deque<uint64_t> ended_;
};

inline Threads& threads() {
  static auto* threads = new Threads();
  return *threads;
}

// The passes of the current thread, until it ends.
struct OwnPasses {
  const uint64_t thread;
  Passes& passes;

  explicit OwnPasses(uint64_t thread) : thread(thread), passes(threads().of(thread)) {}
  ~OwnPasses() {
    threads().end(thread);
  }
};

} // namespace shim
