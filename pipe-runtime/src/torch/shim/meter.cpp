// Counts the bytes of CPU tensors that the ranks of a pipeline hold while it runs, by what holds
// them. libtorch's allocators report to the thread that allocates or frees; each thread that runs a
// step of a rank passes that on to the pipeline's meter.
#include "graph.h"
#include "quiet.h"
#include "shim.h"

#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <array>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace {

// What holds a block, as numbers that the Rust side knows too.
constexpr size_t kHolders = 5;
constexpr size_t kUnderWay = 2;
constexpr size_t kGradients = 3;

using ByHolder = std::array<int64_t, kHolders>;

struct RankBytes {
  ByHolder now{};
  int64_t total = 0;
  // The highest total, and what it was made of.
  int64_t peak = 0;
  ByHolder at_peak{};
  // The highest total since the current step began, without what is under way: other ranks change
  // that meanwhile.
  int64_t peak_of_step = 0;

  void change(size_t holder, int64_t bytes) {
    now[holder] += bytes;
    total += bytes;
    peak_of_step = std::max(peak_of_step, total - now[kUnderWay]);
    if (total > peak) {
      peak = total;
      at_peak = now;
    }
  }
};

struct Meter {
  struct Held {
    size_t rank;
    size_t holder;
    int64_t bytes;
  };
  std::mutex mutex;
  std::vector<RankBytes> ranks;
  std::unordered_map<const void*, Held> blocks;

  explicit Meter(size_t ranks) : ranks(ranks) {}

  void allocated(const void* block, int64_t bytes, size_t rank, size_t holder) {
    std::lock_guard<std::mutex> lock(mutex);
    freed_one(block);
    blocks[block] = Held{rank, holder, bytes};
    ranks[rank].change(holder, bytes);
  }

  int64_t under_way(const void* block) {
    std::lock_guard<std::mutex> lock(mutex);
    auto found = blocks.find(block);
    return found != blocks.end() && found->second.holder == kUnderWay ? found->second.bytes : 0;
  }

  void freed(const void* block) {
    std::lock_guard<std::mutex> lock(mutex);
    freed_one(block);
  }

  // A block that was there before the pipeline ran is not counted.
  void hold(const void* block, size_t rank, size_t holder, bool if_under_way = false) {
    std::lock_guard<std::mutex> lock(mutex);
    auto found = blocks.find(block);
    if (found == blocks.end() || (if_under_way && found->second.holder != kUnderWay)) {
      return;
    }
    Held& held = found->second;
    ranks[held.rank].change(held.holder, -held.bytes);
    held.rank = rank;
    held.holder = holder;
    ranks[rank].change(holder, held.bytes);
  }

 private:
  void freed_one(const void* block) {
    auto found = blocks.find(block);
    if (found != blocks.end()) {
      ranks[found->second.rank].change(found->second.holder, -found->second.bytes);
      blocks.erase(found);
    }
  }
};

// Attributes what one thread allocates.
struct Metered : c10::MemoryReportingInfoBase {
  std::shared_ptr<Meter> meter;
  size_t rank;
  size_t holder;
  // What was told before.
  c10::MemoryReportingInfoBase* outer;

  Metered(std::shared_ptr<Meter> meter, size_t rank, size_t holder)
      : meter(std::move(meter)),
        rank(rank),
        holder(holder),
        outer(static_cast<c10::MemoryReportingInfoBase*>(
            c10::ThreadLocalDebugInfo::get(c10::DebugInfoKind::PROFILER_STATE))) {}

  void reportMemoryUsage(void* block, int64_t bytes, size_t all, size_t reserved, c10::Device device)
      override {
    if (device.is_cpu()) {
      if (bytes > 0) {
        meter->allocated(block, bytes, rank, holder);
      } else {
        meter->freed(block);
      }
    }
    if (outer && outer->memoryProfilingEnabled()) {
      outer->reportMemoryUsage(block, bytes, all, reserved, device);
    }
  }

  bool memoryProfilingEnabled() const override {
    return true;
  }
};

struct MeterHandle {
  shim::ErrorsAlone quiet;
  std::shared_ptr<Meter> meter;
};

// Whether nothing but so many handles holds the tensor's memory. A view holds its base, which is
// one more tensor of the memory.
bool is_held_by(const at::Tensor& tensor, size_t handles) {
  const auto uses = static_cast<size_t>(tensor.storage().use_count());
  if (uses <= handles || !tensor.is_view()) {
    return uses <= handles;
  }
  // The handles' views, and this one.
  return uses <= handles + 1 && static_cast<size_t>(tensor._base().use_count()) <= handles + 1;
}

struct MeteredStep {
  std::shared_ptr<Metered> reports;
  c10::DebugInfoGuard guard;

  explicit MeteredStep(std::shared_ptr<Metered> told)
      : reports(told), guard(c10::DebugInfoKind::PROFILER_STATE, std::move(told)) {}
};

} // namespace

extern "C" {

// The bytes of a rank.
struct RankMemory {
  int64_t now[kHolders];
  int64_t at_peak[kHolders];
  int64_t peak_of_step;
};

int pipe_meter_new(size_t ranks, MeterHandle** meter) {
  return shim::guarded([&] { *meter = new MeterHandle{{}, std::make_shared<Meter>(ranks)}; });
}

void pipe_meter_free(MeterHandle* meter) {
  delete meter;
}

// Counts for `rank` and `holder` what this thread allocates, until `pipe_meter_leave`. What is
// under way is no step of the rank.
int pipe_meter_enter(MeterHandle* meter, size_t rank, size_t holder, MeteredStep** step) {
  return shim::guarded([&] {
    *step = new MeteredStep(std::make_shared<Metered>(meter->meter, rank, holder));
    std::lock_guard<std::mutex> lock(meter->meter->mutex);
    RankBytes& bytes = meter->meter->ranks.at(rank);
    if (holder == kUnderWay) {
      return;
    }
    bytes.peak_of_step = bytes.total - bytes.now[kUnderWay];
  });
}

void pipe_meter_leave(MeteredStep* step) {
  delete step;
}

// The tensor goes to `rank`, which holds its memory from now on, unless others hold it than the
// `handles` that are known.
int pipe_meter_send(MeterHandle* meter, const at::Tensor* tensor, size_t rank, size_t handles) {
  return shim::guarded([&] {
    if (tensor->defined() && tensor->has_storage() && is_held_by(*tensor, handles)) {
      meter->meter->hold(tensor->storage().data(), rank, kUnderWay);
    }
  });
}

// If the tensor's memory was under way, `rank` and `holder` hold it from now on.
int pipe_meter_receive(MeterHandle* meter, const at::Tensor* tensor, size_t rank, size_t holder) {
  return shim::guarded([&] {
    if (tensor->defined() && tensor->has_storage()) {
      meter->meter->hold(tensor->storage().data(), rank, holder, /*if_under_way=*/true);
    }
  });
}

// The bytes of the tensor's memory, if it is under way.
int64_t pipe_meter_under_way(MeterHandle* meter, const at::Tensor* tensor) {
  return tensor->defined() && tensor->has_storage()
      ? meter->meter->under_way(tensor->storage().data())
      : 0;
}

// From now on, the sums are gradients of `rank`.
int pipe_meter_hold_sums(MeterHandle* meter, const shim::Sums* sums, size_t rank) {
  return shim::guarded([&] {
    for (const at::Tensor& sum : sums->gradients) {
      if (sum.defined() && sum.has_storage()) {
        meter->meter->hold(sum.storage().data(), rank, kGradients);
      }
    }
  });
}

// Reads what a rank holds.
int pipe_meter_read(MeterHandle* meter, size_t rank, RankMemory* memory) {
  return shim::guarded([&] {
    std::lock_guard<std::mutex> lock(meter->meter->mutex);
    const RankBytes& bytes = meter->meter->ranks.at(rank);
    std::copy(bytes.now.begin(), bytes.now.end(), memory->now);
    std::copy(bytes.at_peak.begin(), bytes.at_peak.end(), memory->at_peak);
    memory->peak_of_step = bytes.peak_of_step;
  });
}

} // extern "C"
