// Which nodes were made while graphs of stages were recorded, on any thread.
#pragma once

#include <ATen/record_function.h>

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
  // From now on, the thread records a graph. Its nodes belong to the graph at once: layers of other
  // stages may find them in a cell before the pass has ended. Returns the number of the first node
  // of the outermost graph that is recorded.
  uint64_t begin(uint64_t first) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (recording_++ == 0) {
      first_ = first;
    }
    return first_;
  }

  // One of the graphs has all of its nodes, which have lower numbers than `end`.
  void end(uint64_t end) {
    std::lock_guard<std::mutex> lock(mutex_);
    // The graphs of a pipeline inside a layer lie within one of the outer pipeline.
    if (--recording_ == 0 && end > first_) {
      add(first_, end);
    }
  }

  // The same from another thread, which does not know the numbers: the nodes belong to no graph.
  void drop() {
    std::lock_guard<std::mutex> lock(mutex_);
    --recording_;
  }

  // The thread has ended, and its graphs will soon, too.
  void retire() {
    std::lock_guard<std::mutex> lock(mutex_);
    keep_last(1024);
    passes_.shrink_to_fit();
  }

  bool contain(uint64_t number) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (recording_ > 0 && number >= first_) {
      return true;
    }
    auto after = std::upper_bound(
        passes_.begin(), passes_.end(), number, [](uint64_t number, const auto& pass) {
          return number < pass.first;
        });
    return after != passes_.begin() && number < std::prev(after)->second;
  }

 private:
  void add(uint64_t first, uint64_t end) {
    if (!passes_.empty() && passes_.back().second >= first) {
      passes_.back().second = end;
    } else {
      passes_.emplace_back(first, end);
    }
    // Each call adds at most one entry, and no graph is expected to be kept for this many calls.
    keep_last(65536);
  }

  void keep_last(size_t count) {
    while (passes_.size() > count) {
      passes_.pop_front();
    }
  }

  std::mutex mutex_;
  std::deque<std::pair<uint64_t, uint64_t>> passes_;
  // How many graphs are recorded now, and the number of the first node of the first of them.
  size_t recording_ = 0;
  uint64_t first_ = 0;
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

  void drop(uint64_t thread) {
    std::lock_guard<std::mutex> lock(mutex_);
    auto found = passes_.find(thread);
    if (found != passes_.end()) {
      found->second.drop();
    }
  }

  // Keeps the passes of this thread, which ends now, until so many others have ended: a process may
  // build any number of pipelines, each with threads of its own.
  void end(uint64_t thread) {
    std::lock_guard<std::mutex> lock(mutex_);
    passes_[thread].retire();
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

  static Passes& here() {
    thread_local OwnPasses own(at::RecordFunction::currentThreadId());
    return own.passes;
  }
};

} // namespace shim
