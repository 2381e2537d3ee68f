// Counts the bytes of CPU tensors that the ranks of a pipeline hold while it runs, by what holds
// them. libtorch's allocators report to the thread that allocates or frees; each thread that runs a
// step of a rank passes that on to the pipeline's meter.
#include "graph.h"
#include "quiet.h"
#include "shim.h"

#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <algorithm>
#include <array>
#include <functional>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace {

// What holds a block, as numbers that the Rust side knows too.
constexpr size_t kHolders = 5;
constexpr size_t kUnderWay = 2;
constexpr size_t kGradients = 3;

using ByHolder = std::array<int64_t, kHolders>;

// What a stage holds, and what it held when its rank held most.
struct StageBytes {
  size_t rank;
  ByHolder now{};
  ByHolder at_peak{};
};

// The stages of a rank together.
struct RankBytes {
  std::vector<size_t> stages;
  int64_t total = 0;
  int64_t under_way = 0;
  // The highest total.
  int64_t peak = 0;
  // The highest total since the current step began, without what is under way: other ranks change
  // that meanwhile.
  int64_t peak_of_step = 0;
};

struct Meter {
  struct Held {
    size_t stage;
    size_t holder;
    int64_t bytes;
  };
  std::mutex mutex;
  std::vector<StageBytes> stages;
  std::vector<RankBytes> ranks;
  std::unordered_map<const void*, Held> blocks;

  // Takes the rank of each stage.
  Meter(const size_t* rank_of, size_t count) {
    for (size_t stage = 0; stage < count; ++stage) {
      const size_t rank = rank_of[stage];
      stages.push_back(StageBytes{rank});
      ranks.resize(std::max(ranks.size(), rank + 1));
      ranks[rank].stages.push_back(stage);
    }
  }

  RankBytes& rank_of(size_t stage) {
    return ranks[stages.at(stage).rank];
  }

  void allocated(const void* block, int64_t bytes, size_t stage, size_t holder) {
    std::lock_guard<std::mutex> lock(mutex);
    freed_one(block);
    blocks[block] = Held{stage, holder, bytes};
    change(stage, holder, bytes);
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
  void hold(const void* block, size_t stage, size_t holder, bool if_under_way = false) {
    std::lock_guard<std::mutex> lock(mutex);
    auto found = blocks.find(block);
    if (found == blocks.end() || (if_under_way && found->second.holder != kUnderWay)) {
      return;
    }
    Held& held = found->second;
    change(held.stage, held.holder, -held.bytes);
    held.stage = stage;
    held.holder = holder;
    change(stage, holder, held.bytes);
  }

 private:
  void freed_one(const void* block) {
    auto found = blocks.find(block);
    if (found != blocks.end()) {
      change(found->second.stage, found->second.holder, -found->second.bytes);
      blocks.erase(found);
    }
  }

  void change(size_t stage, size_t holder, int64_t bytes) {
    stages[stage].now[holder] += bytes;
    RankBytes& rank = rank_of(stage);
    rank.total += bytes;
    rank.under_way += holder == kUnderWay ? bytes : 0;
    rank.peak_of_step = std::max(rank.peak_of_step, rank.total - rank.under_way);
    if (rank.total > rank.peak) {
      rank.peak = rank.total;
      for (size_t other : rank.stages) {
        stages[other].at_peak = stages[other].now;
      }
    }
  }
};

// Attributes what one thread allocates.
struct Metered : c10::MemoryReportingInfoBase {
  std::shared_ptr<Meter> meter;
  size_t stage;
  size_t holder;
  // What was told before.
  c10::MemoryReportingInfoBase* outer;

  Metered(std::shared_ptr<Meter> meter, size_t stage, size_t holder)
      : meter(std::move(meter)),
        stage(stage),
        holder(holder),
        outer(static_cast<c10::MemoryReportingInfoBase*>(
            c10::ThreadLocalDebugInfo::get(c10::DebugInfoKind::PROFILER_STATE))) {}

  void reportMemoryUsage(void* block, int64_t bytes, size_t all, size_t reserved, c10::Device device)
      override {
    if (device.is_cpu()) {
      if (bytes > 0) {
        meter->allocated(block, bytes, stage, holder);
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

// The bytes of a stage's rank, and of the stage when the rank held most.
struct Metering {
  int64_t now[kHolders];
  int64_t peak_of_step;
  int64_t at_peak[kHolders];
};

// Takes the rank of each stage.
int pipe_meter_new(const size_t* rank_of, size_t stages, MeterHandle** meter) {
  return shim::guarded(
      [&] { *meter = new MeterHandle{{}, std::make_shared<Meter>(rank_of, stages)}; });
}

void pipe_meter_free(MeterHandle* meter) {
  delete meter;
}

// Counts for `stage` and `holder` what this thread allocates, until `pipe_meter_leave`. What is
// under way is no step of the stage.
int pipe_meter_enter(MeterHandle* meter, size_t stage, size_t holder, MeteredStep** step) {
  return shim::guarded([&] {
    *step = new MeteredStep(std::make_shared<Metered>(meter->meter, stage, holder));
    std::lock_guard<std::mutex> lock(meter->meter->mutex);
    RankBytes& rank = meter->meter->rank_of(stage);
    if (holder == kUnderWay) {
      return;
    }
    rank.peak_of_step = rank.total - rank.under_way;
  });
}

void pipe_meter_leave(MeteredStep* step) {
  delete step;
}

// The tensor goes to `stage`, which holds its memory from now on, unless others hold it than the
// `handles` that are known.
int pipe_meter_send(MeterHandle* meter, const at::Tensor* tensor, size_t stage, size_t handles) {
  return shim::guarded([&] {
    if (tensor->defined() && tensor->has_storage() && is_held_by(*tensor, handles)) {
      meter->meter->hold(tensor->storage().data(), stage, kUnderWay);
    }
  });
}

// If the tensor's memory was under way, `stage` and `holder` hold it from now on.
int pipe_meter_receive(MeterHandle* meter, const at::Tensor* tensor, size_t stage, size_t holder) {
  return shim::guarded([&] {
    if (tensor->defined() && tensor->has_storage()) {
      meter->meter->hold(tensor->storage().data(), stage, holder, /*if_under_way=*/true);
    }
  });
}

// The bytes of the tensor's memory, if it is under way.
int64_t pipe_meter_under_way(MeterHandle* meter, const at::Tensor* tensor) {
  return tensor->defined() && tensor->has_storage()
      ? meter->meter->under_way(tensor->storage().data())
      : 0;
}

// From now on, the sums are gradients of `stage`.
int pipe_meter_hold_sums(MeterHandle* meter, const shim::Sums* sums, size_t stage) {
  return shim::guarded([&] {
    for (const at::Tensor& sum : sums->gradients) {
      if (sum.defined() && sum.has_storage()) {
        meter->meter->hold(sum.storage().data(), stage, kGradients);
      }
    }
  });
}

// Reads what a stage's rank holds, and what the stage held when the rank held most.
int pipe_meter_read(MeterHandle* meter, size_t stage, Metering* found) {
  return shim::guarded([&] {
    std::lock_guard<std::mutex> lock(meter->meter->mutex);
    const RankBytes& rank = meter->meter->rank_of(stage);
    *found = Metering{};
    for (size_t other : rank.stages) {
      const ByHolder& now = meter->meter->stages[other].now;
      std::transform(now.begin(), now.end(), found->now, found->now, std::plus<>());
    }
    found->peak_of_step = rank.peak_of_step;
    const ByHolder& at_peak = meter->meter->stages[stage].at_peak;
    std::copy(at_peak.begin(), at_peak.end(), found->at_peak);
  });
}

} // extern "C"
