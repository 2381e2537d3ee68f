// Allocations and operators of libtorch that fail once when they are told to, a count of the memory
// that is in use, and libtorch's default kind. Both sides have one file in their memory: the
// program writes how many are left until one fails.
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <string>
#include <sys/mman.h>
#include <unistd.h>

#include <c10/core/CPUAllocator.h>
#include <c10/core/DefaultDtype.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/library.h>

namespace {

// `lib.rs` knows the order of these.
struct Shared {
  // How many are left until one fails; 0 if none does.
  std::atomic<int64_t> allocations;
  std::atomic<int64_t> operators;
  // Whether operators are counted, and whether one that fails ends the process instead.
  std::atomic<int64_t> watches_operators;
  std::atomic<int64_t> kills;
  // Blocks of memory that have been allocated and not freed.
  std::atomic<int64_t> in_use;
  // The default kind that the next allocation sets, as a scalar type; 0, which is none of them, if
  // it sets none.
  std::atomic<int64_t> default_kind;
};

Shared* shared = nullptr;

bool fails_now(std::atomic<int64_t>& left) {
  int64_t now = left.load();
  while (now > 0 && !left.compare_exchange_weak(now, now - 1)) {
  }
  return now == 1;
}

// A key below autograd's that libtorch has no kernels for, and no rule, so a call is counted where
// it reaches a kernel. A thread that allocates gets it while operators are counted, and hands it on
// as any other mode.
constexpr auto kKey = c10::DispatchKey::Fake;

void watch_operators() {
  const bool watches = shared->watches_operators.load() != 0;
  if (c10::impl::tls_is_dispatch_key_included(kKey) != watches) {
    c10::impl::tls_set_dispatch_key_included(kKey, watches);
  }
}

void set_default_kind() {
  const int64_t kind = shared->default_kind.exchange(0);
  if (kind != 0) {
    c10::set_default_dtype(c10::scalarTypeToTypeMeta(static_cast<c10::ScalarType>(kind)));
  }
}

// Operators that are called by other ones count, too.
void run_operator(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
  if (fails_now(shared->operators)) {
    if (shared->kills.load() != 0) {
      kill(getpid(), SIGKILL);
    }
    TORCH_CHECK(false, op.schema().name(), " fails on purpose");
  }
  op.redispatchBoxed(keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, kKey), stack);
}

TORCH_LIBRARY_IMPL(_, Fake, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&run_operator>());
}

c10::Allocator* memory = nullptr;
c10::DeleterFnPtr free_block = nullptr;

void count_and_free(void* block) {
  shared->in_use.fetch_sub(1);
  free_block(block);
}

struct FailingMemory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    watch_operators();
    set_default_kind();
    // Tensors without elements need no memory.
    TORCH_CHECK(bytes == 0 || !fails_now(shared->allocations), "not enough memory: on purpose");
    auto block = memory->allocate(bytes);
    if (block.get() && block.compare_exchange_deleter(free_block, &count_and_free)) {
      shared->in_use.fetch_add(1);
    }
    return block;
  }

  c10::DeleterFnPtr raw_deleter() const override {
    return &count_and_free;
  }

  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};

// Installs the allocator before `main`, above the pipeline's own, and publishes the file's path.
__attribute__((constructor)) void install() {
  const char* folder = getenv("TMPDIR");
  static std::string path = std::string(folder ? folder : "/tmp") + "/pipe-failing-libtorch-XXXXXX";
  const int file = mkstemp(path.data());
  void* mapped = MAP_FAILED;
  if (file >= 0 && ftruncate(file, sizeof(Shared)) == 0) {
    mapped = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  }
  if (mapped == MAP_FAILED || setenv("PIPE_FAILING_LIBTORCH", path.c_str(), 1) != 0) {
    perror("the file of what fails cannot be made");
    abort();
  }
  close(file);
  atexit([] { unlink(path.c_str()); });
  shared = new (mapped) Shared{};
  memory = c10::GetCPUAllocator();
  free_block = memory->raw_deleter();
  if (!free_block) {
    fprintf(stderr, "the allocator that is wrapped has no deleter\n");
    abort();
  }
  static FailingMemory failing;
  c10::SetCPUAllocator(&failing, /*priority=*/1);
}

} // namespace
