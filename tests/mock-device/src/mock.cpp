// Two mock CUDA devices, for a process whose libtorch has no CUDA. Memory is the host's, and
// operators are the CPU's, run at once by the calling thread. Streams order nothing here: each use
// of memory on the current stream, each event and each wait is only logged. The order that they
// would give is checked afterwards.
#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/NativeFunctions.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/record_function.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <sstream>
#include <string>

namespace {

constexpr int kDevices = 2;
constexpr int kPool = 32;

enum Kind : int64_t {
  kRead = 0,
  kWrite = 1,
  kHostRead = 2,
  kHostWrite = 3,
  kAllocate = 4,
  kFree = 5,
  kUse = 6,
  kRecord = 7,
  kWait = 8,
  kHostWaitsForEvent = 9,
  kHostWaitsForStream = 10,
  kHostWaitsForDevice = 11,
};

int64_t this_thread() {
  static std::atomic<int64_t> threads{0};
  thread_local int64_t number = threads++;
  return number;
}

int64_t number_of(const c10::Stream& stream) {
  return stream.device_index() * 1000 + stream.id();
}

// The log is a file of lines, which the tests read.
struct Log {
  std::mutex mutex;
  int file = -1;
};

// The log is never destroyed, because workers may still write while the process ends.
Log& log() {
  static auto* instance = new Log();
  return *instance;
}

// Writes a line. `stream` is the device's number times 1000, plus the stream's number. `object` is
// the number of the block of memory or of the event.
void write(Kind kind, int64_t stream, int64_t object, const std::string& name) {
  std::ostringstream line;
  line << kind << ' ' << this_thread() << ' ' << stream << ' ' << object << ' ' << name << '\n';
  const std::string text = line.str();
  std::lock_guard<std::mutex> lock(log().mutex);
  TORCH_CHECK(
      ::write(log().file, text.data(), text.size()) == static_cast<ssize_t>(text.size()),
      "the mock's log cannot be written");
}

thread_local c10::DeviceIndex current_device = 0;
thread_local int64_t current_streams[kDevices] = {};
// Depth of running operators of the mock. The CPU operators that they call are not logged.
thread_local int inside = 0;

struct Inside {
  Inside() {
    ++inside;
  }
  ~Inside() {
    --inside;
  }
};

c10::Device whole(c10::Device device) {
  return c10::Device(c10::kCUDA, device.has_index() ? device.index() : current_device);
}

c10::Stream current(c10::Device device) {
  device = whole(device);
  return c10::Stream(c10::Stream::UNSAFE, device, current_streams[device.index()]);
}

struct Guard final : public c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override {
    return c10::kCUDA;
  }
  c10::Device exchangeDevice(c10::Device device) const override {
    c10::Device before = getDevice();
    setDevice(device);
    return before;
  }
  c10::Device getDevice() const override {
    return c10::Device(c10::kCUDA, current_device);
  }
  void setDevice(c10::Device device) const override {
    current_device = whole(device).index();
  }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    current_device = whole(device).index();
  }
  c10::Stream getStream(c10::Device device) const override {
    return current(device);
  }
  c10::Stream getDefaultStream(c10::Device device) const override {
    return c10::Stream(c10::Stream::DEFAULT, whole(device));
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override {
    static std::atomic<int64_t> taken{0};
    return c10::Stream(c10::Stream::UNSAFE, whole(device), 1 + taken++ % kPool);
  }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    c10::Stream before = current(stream.device());
    current_streams[stream.device_index()] = stream.id();
    return before;
  }
  void record(void** event, const c10::Stream& stream, c10::DeviceIndex, c10::EventFlag)
      const override {
    static std::atomic<int64_t> events{0};
    if (!*event) {
      *event = new int64_t(events++);
    }
    write(kRecord, number_of(stream), number(*event), "record");
  }
  void block(void* event, const c10::Stream& stream) const override {
    if (event) {
      write(kWait, number_of(stream), number(event), "wait");
    }
  }
  void destroyEvent(void* event, c10::DeviceIndex) const noexcept override {
    delete static_cast<int64_t*>(event);
  }
  bool queryEvent(void*) const override {
    return true;
  }
  void synchronizeEvent(void* event) const override {
    if (event) {
      write(kHostWaitsForEvent, 0, number(event), "host waits for an event");
    }
  }
  bool queryStream(const c10::Stream&) const override {
    return true;
  }
  void synchronizeStream(const c10::Stream& stream) const override {
    write(kHostWaitsForStream, number_of(stream), 0, "host waits for a stream");
  }
  void synchronizeDevice(c10::DeviceIndex device) const override {
    write(kHostWaitsForDevice, device * 1000, 0, "host waits for a device");
  }
  void recordDataPtrOnStream(const c10::DataPtr& memory, const c10::Stream& stream) const override;
  void* getStreamNativeHandle(const c10::Stream stream) const override {
    return reinterpret_cast<void*>(number_of(stream));
  }
  c10::DeviceIndex deviceCount() const noexcept override {
    return kDevices;
  }

 private:
  static int64_t number(void* event) {
    return *static_cast<int64_t*>(event);
  }
};

// A block of a device's memory, or of the host's pinned memory.
struct Block {
  int64_t number;
  void* memory;
  size_t bytes;
  // The device's number, or -1 for pinned memory.
  int device;
};

std::mutex memory_mutex;
c10::CachingDeviceAllocator::DeviceStats stats[kDevices];
std::map<const char*, size_t> pinned;
// Each device's memory, by its address.
std::map<const char*, const Block*> blocks_at;

constexpr auto kAll = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);

// Memory that is not written yet, or is freed, is filled with NaN, so that a use of it shows.
constexpr int kPoison = 0xff;

void release(void* context) {
  auto* block = static_cast<Block*>(context);
  write(kFree, 0, block->number, "free");
  {
    std::lock_guard<std::mutex> lock(memory_mutex);
    blocks_at.erase(static_cast<char*>(block->memory));
    if (block->device < 0) {
      pinned.erase(static_cast<char*>(block->memory));
    } else {
      stats[block->device].allocated_bytes[kAll].decrease(block->bytes);
      stats[block->device].reserved_bytes[kAll].decrease(block->bytes);
    }
  }
  std::memset(block->memory, kPoison, block->bytes);
  std::free(block->memory);
  delete block;
}

c10::DataPtr take(size_t bytes, int device) {
  static std::atomic<int64_t> blocks{0};
  auto* block = new Block{blocks++, nullptr, bytes, device};
  block->memory = std::aligned_alloc(64, (bytes / 64 + 1) * 64);
  TORCH_CHECK(block->memory, "out of memory");
  std::memset(block->memory, kPoison, bytes);
  write(
      kAllocate,
      device < 0 ? -1 : number_of(current(c10::Device(c10::kCUDA, device))),
      block->number,
      "allocate");
  std::lock_guard<std::mutex> lock(memory_mutex);
  blocks_at.emplace(static_cast<char*>(block->memory), block);
  if (device < 0) {
    pinned.emplace(static_cast<char*>(block->memory), bytes);
    return {block->memory, block, &release, c10::Device(c10::kCPU)};
  }
  stats[device].allocated_bytes[kAll].increase(bytes);
  stats[device].reserved_bytes[kAll].increase(bytes);
  return {
      block->memory,
      block,
      &release,
      c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(device))};
}

const Block* block_of(const c10::DataPtr& memory) {
  return memory.get_deleter() == &release ? static_cast<const Block*>(memory.get_context())
                                          : nullptr;
}

const Block* block_of(const at::Tensor& tensor) {
  return tensor.defined() && tensor.has_storage() ? block_of(tensor.storage().data_ptr()) : nullptr;
}

void Guard::recordDataPtrOnStream(const c10::DataPtr& memory, const c10::Stream& stream) const {
  if (const Block* block = block_of(memory)) {
    write(kUse, number_of(stream), block->number, "record_stream");
  }
}

struct DeviceMemory final : public c10::DeviceAllocator {
  c10::DataPtr allocate(size_t bytes) override {
    return take(bytes, current_device);
  }
  c10::DeleterFnPtr raw_deleter() const override {
    return nullptr;
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }
  bool initialized() override {
    return true;
  }
  void emptyCache(c10::MempoolId_t) override {}
  void recordStream(const c10::DataPtr& memory, c10::Stream stream) override {
    Guard().recordDataPtrOnStream(memory, stream);
  }
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex device) override {
    std::lock_guard<std::mutex> lock(memory_mutex);
    return stats[device];
  }
  void resetAccumulatedStats(c10::DeviceIndex) override {}
  void resetPeakStats(c10::DeviceIndex device) override {
    std::lock_guard<std::mutex> lock(memory_mutex);
    stats[device].allocated_bytes[kAll].reset_peak();
    stats[device].reserved_bytes[kAll].reset_peak();
  }
};

struct PinnedMemory final : public c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    return take(bytes, -1);
  }
  c10::DeleterFnPtr raw_deleter() const override {
    return nullptr;
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }
};

DeviceMemory* device_memory() {
  static auto* allocator = new DeviceMemory();
  return allocator;
}

struct Hooks final : public at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override {
    return true;
  }
  bool isAvailable() const override {
    return true;
  }
  bool hasCUDA() const override {
    return true;
  }
  bool hasPrimaryContext(c10::DeviceIndex) const override {
    return true;
  }
  c10::DeviceIndex deviceCount() const override {
    return kDevices;
  }
  int getNumGPUs() const override {
    return kDevices;
  }
  c10::DeviceIndex current_device() const override {
    return ::current_device;
  }
  c10::DeviceIndex getCurrentDevice() const override {
    return ::current_device;
  }
  void setCurrentDevice(c10::DeviceIndex device) const override {
    ::current_device = device;
  }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex device) const override {
    return std::exchange(::current_device, device);
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex device) const override {
    return std::exchange(::current_device, device);
  }
  bool isPinnedPtr(const void* memory) const override {
    std::lock_guard<std::mutex> lock(memory_mutex);
    auto at = static_cast<const char*>(memory);
    auto after = pinned.upper_bound(at);
    return after != pinned.begin() &&
        at < std::prev(after)->first + std::max<size_t>(std::prev(after)->second, 1);
  }
  c10::Allocator* getPinnedMemoryAllocator() const override {
    static auto* allocator = new PinnedMemory();
    return allocator;
  }
  c10::Allocator* getCUDADeviceAllocator() const override {
    return device_memory();
  }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    return at::globalContext().defaultGenerator(c10::Device(c10::kCPU));
  }
  void deviceSynchronize(c10::DeviceIndex device) const override {
    Guard().synchronizeDevice(device);
  }
};

void access(
    bool writes,
    const at::Tensor& tensor,
    const c10::Stream& stream,
    const std::string& name) {
  if (const Block* block = block_of(tensor)) {
    if (block->bytes > 0) {
      write(writes ? kWrite : kRead, number_of(stream), block->number, name);
    }
  }
}

// A library beside libtorch uses memory on a stream.
void use_outside(int64_t stream, const void* address, bool writes, const char* name) {
  int64_t block;
  {
    std::lock_guard<std::mutex> lock(memory_mutex);
    auto after = blocks_at.upper_bound(static_cast<const char*>(address));
    TORCH_CHECK(after != blocks_at.begin(), "this is no memory of a mock device");
    block = std::prev(after)->second->number;
  }
  write(writes ? kWrite : kRead, stream, block, name);
}

template <typename Body>
void for_each_tensor(const c10::IValue& value, const Body& body) {
  if (value.isTensor()) {
    body(value.toTensor());
  } else if (value.isTensorList()) {
    for (const at::Tensor& tensor : value.toTensorVector()) {
      body(tensor);
    }
  } else if (value.isOptionalTensorList()) {
    for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorVector()) {
      if (tensor) {
        body(*tensor);
      }
    }
  }
}

// Returns a CPU tensor on the same memory.
at::Tensor on_cpu(const at::Tensor& tensor) {
  if (tensor.is_cpu()) {
    return tensor;
  }
  return at::from_blob(
      tensor.data_ptr(), tensor.sizes(), tensor.strides(), tensor.options().device(c10::kCPU));
}

at::Tensor empty(
    at::IntArrayRef size,
    std::optional<at::ScalarType> dtype,
    std::optional<at::Layout>,
    std::optional<at::Device> device,
    std::optional<bool>,
    std::optional<at::MemoryFormat> format) {
  c10::DeviceGuard guard(whole(device.value_or(c10::Device(c10::kCUDA))));
  return at::detail::empty_generic(
      size,
      device_memory(),
      c10::DispatchKeySet(c10::DispatchKey::CUDA),
      at::dtype_or_default(dtype),
      format);
}

at::Tensor empty_strided(
    at::IntArrayRef size,
    at::IntArrayRef stride,
    std::optional<at::ScalarType> dtype,
    std::optional<at::Layout>,
    std::optional<at::Device> device,
    std::optional<bool>) {
  c10::DeviceGuard guard(whole(device.value_or(c10::Device(c10::kCUDA))));
  return at::detail::empty_strided_generic(
      size,
      stride,
      device_memory(),
      c10::DispatchKeySet(c10::DispatchKey::CUDA),
      at::dtype_or_default(dtype));
}

const at::Tensor&
resize(const at::Tensor& self, at::IntArrayRef size, std::optional<at::MemoryFormat>) {
  self.unsafeGetTensorImpl()->set_sizes_contiguous(size);
  const size_t needed = (self.storage_offset() + self.numel()) * self.element_size();
  auto* storage = self.storage().unsafeGetStorageImpl();
  if (storage->nbytes() < needed) {
    c10::DeviceGuard guard(self.device());
    storage->set_data_ptr(device_memory()->allocate(needed));
    storage->set_nbytes(needed);
  }
  return self;
}

// Copies as CUDA does: on the current stream of the device that is not the CPU. Between two
// devices, it is the source's stream, with an event before the copy and one after.
at::Tensor& copy(at::Tensor& self, const at::Tensor& source, bool non_blocking) {
  if (!inside) {
    const c10::Stream stream = current(source.is_cuda() ? source.device() : self.device());
    const bool between = source.is_cuda() && self.is_cuda() && source.device() != self.device();
    if (between) {
      c10::Event ready(c10::kCUDA);
      ready.record(current(self.device()));
      ready.block(stream);
    }
    access(false, source, stream, "copy_");
    access(true, self, stream, "copy_");
    if (between) {
      c10::Event done(c10::kCUDA);
      done.record(stream);
      done.block(current(self.device()));
    }
    // With pageable memory, the host waits for the copy.
    const at::Tensor& host = self.is_cuda() ? source : self;
    if (host.is_cpu() && !(non_blocking && block_of(host))) {
      Guard().synchronizeStream(stream);
    }
  }
  Inside within;
  on_cpu(self).copy_(on_cpu(source));
  return self;
}

at::Tensor copy_from_and_resize(const at::Tensor& source, const at::Tensor& self) {
  Inside within;
  if (self.sizes() != source.sizes()) {
    self.resize_(source.sizes());
  }
  on_cpu(self).copy_(on_cpu(source));
  return self;
}

at::Scalar item(const at::Tensor& self) {
  const c10::Stream stream = current(self.device());
  if (!inside) {
    access(false, self, stream, "item");
    Guard().synchronizeStream(stream);
  }
  Inside within;
  return on_cpu(self).item();
}

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const size_t first = stack->size() - schema.arguments().size();
  if (!inside) {
    for (size_t i = 0; i < schema.arguments().size(); ++i) {
      const auto* alias = schema.arguments()[i].alias_info();
      for_each_tensor((*stack)[first + i], [&](const at::Tensor& tensor) {
        if (tensor.defined() && tensor.is_cuda()) {
          access(alias && alias->isWrite(), tensor, current(tensor.device()), schema.name());
        }
      });
    }
  }
  {
    Inside within;
    at::native::cpu_fallback(op, stack);
  }
  if (!inside) {
    for (size_t i = stack->size() - schema.returns().size(); i < stack->size(); ++i) {
      for_each_tensor((*stack)[i], [&](const at::Tensor& tensor) {
        if (tensor.defined() && tensor.is_cuda()) {
          access(true, tensor, current(tensor.device()), schema.name());
        }
      });
    }
  }
}

// Logs uses of pinned memory by the CPU's operators, which must not touch it too early.
std::unique_ptr<at::ObserverContext> watch_host(const at::RecordFunction& function) {
  if (inside) {
    return nullptr;
  }
  const auto schema = function.operator_schema();
  const auto inputs = function.inputs();
  // A copy to or from a device is the work of a stream, and logs that itself.
  if (std::strcmp(function.name(), "aten::copy_") == 0) {
    bool on_device = false;
    for (const c10::IValue& input : inputs) {
      on_device |= input.isTensor() && input.toTensor().defined() && input.toTensor().is_cuda();
    }
    if (on_device) {
      return nullptr;
    }
  }
  for (size_t i = 0; i < inputs.size(); ++i) {
    const auto* alias =
        schema && i < schema->arguments().size() ? schema->arguments()[i].alias_info() : nullptr;
    for_each_tensor(inputs[i], [&](const at::Tensor& tensor) {
      const Block* block = tensor.defined() && tensor.is_cpu() ? block_of(tensor) : nullptr;
      if (block && block->bytes > 0) {
        write(
            alias && alias->isWrite() ? kHostWrite : kHostRead, 0, block->number, function.name());
      }
    });
  }
  return nullptr;
}

// Dropout with a generator, and its backward. Only CUDA has these operators, so there is no CPU
// operator to fall back to.
std::tuple<at::Tensor, at::Tensor>
fused_dropout(const at::Tensor& self, double keep, std::optional<at::Generator> generator) {
  at::Tensor kept = at::empty_like(self);
  at::Tensor mask = at::empty_like(self, self.options().dtype(at::kByte));
  const c10::Stream stream = current(self.device());
  access(false, self, stream, "_fused_dropout");
  access(true, kept, stream, "_fused_dropout");
  access(true, mask, stream, "_fused_dropout");
  Inside within;
  on_cpu(mask).bernoulli_(keep, generator);
  on_cpu(kept).copy_(on_cpu(self) * on_cpu(mask) / keep);
  return {kept, mask};
}

at::Tensor masked_scale(const at::Tensor& self, const at::Tensor& mask, double scale) {
  at::Tensor scaled = at::empty_like(self);
  const c10::Stream stream = current(self.device());
  access(false, self, stream, "_masked_scale");
  access(false, mask, stream, "_masked_scale");
  access(true, scaled, stream, "_masked_scale");
  Inside within;
  on_cpu(scaled).copy_(on_cpu(self) * on_cpu(mask) * scale);
  return scaled;
}

struct Kernels {
  torch::Library library{torch::Library::IMPL, "aten", c10::DispatchKey::CUDA, __FILE__, __LINE__};
  torch::Library rest{torch::Library::IMPL, "_", c10::DispatchKey::CUDA, __FILE__, __LINE__};

  Kernels() {
    library.impl("empty.memory_format", TORCH_FN(empty));
    library.impl("empty_strided", TORCH_FN(empty_strided));
    library.impl("resize_", TORCH_FN(resize));
    library.impl("copy_", TORCH_FN(copy));
    library.impl("_copy_from_and_resize", TORCH_FN(copy_from_and_resize));
    library.impl("_local_scalar_dense", TORCH_FN(item));
    library.impl("_fused_dropout", TORCH_FN(fused_dropout));
    library.impl("_masked_scale", TORCH_FN(masked_scale));
    library.impl("as_strided", TORCH_FN(at::native::as_strided_tensorimpl));
    library.impl("view", TORCH_FN(at::native::view));
    library.impl("_reshape_alias", TORCH_FN(at::native::_reshape_alias));
    rest.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
  }
};

// Installs the devices and publishes the log's path, before `main`. It does nothing if libtorch
// itself has CUDA, or has already found that it has none.
__attribute__((constructor)) void install() {
  if (c10::impl::hasDeviceGuardImpl(c10::kCUDA)) {
    return;
  }
  at::CUDAHooksRegistry()->Register("CUDAHooks", [](at::CUDAHooksArgs args) {
    return std::unique_ptr<at::CUDAHooksInterface>(new Hooks(args));
  });
  if (!at::detail::getCUDAHooks().hasCUDA()) {
    return;
  }
  const char* folder = getenv("TMPDIR");
  static auto* path =
      new std::string(std::string(folder ? folder : "/tmp") + "/pipe-mock-device-XXXXXX");
  log().file = mkstemp(path->data());
  if (log().file < 0 || setenv("PIPE_MOCK_DEVICE_LOG", path->c_str(), 1) != 0) {
    perror("the mock's log cannot be made");
    abort();
  }
  atexit([] { unlink(path->c_str()); });
  // The fake NCCL calls this.
  char use[32];
  snprintf(use, sizeof(use), "%llx", reinterpret_cast<unsigned long long>(&use_outside));
  setenv("PIPE_MOCK_DEVICE_USE", use, 1);
  c10::impl::registerDeviceGuard(c10::kCUDA, new Guard());
  c10::SetAllocator(c10::kCUDA, device_memory());
  new Kernels();
  at::addGlobalCallback(at::RecordFunctionCallback(&watch_host)
                            .needsInputs(true)
                            .scopes({at::RecordScope::FUNCTION}));
}

} // namespace
