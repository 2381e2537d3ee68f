// A fake of NCCL for the mock devices, which checks NCCL's rules. What is sent goes through files.
//
// As in NCCL's communicators that do not wait, a call is done on the host only once
// `ncclCommGetAsyncError` says so. Each call, and each rule that is broken, is a line of the file
// that `FAKE_NCCL_LOG` names. With `FAKE_NCCL_ONE_GPU`, all processes have the same device. With
// `FAKE_NCCL_FAULT=WHAT:PROCESS:NUMBER`, this call of this process fails (`init`, `send`), or kills
// the process (`kill-init`, `kill-send`).
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

namespace {

enum Result { kSuccess = 0, kSystemError = 2, kInvalidArgument = 4, kInvalidUsage = 5, kInProgress = 7 };

struct UniqueId {
  char text[128];
};

struct Config {
  size_t size;
  unsigned magic;
  unsigned version;
  int blocking;
};

// What stands before the bytes of a message.
struct Frame {
  int64_t count;
  int64_t type;
};

struct Comm {
  std::string path;
  int size;
  int rank;
  bool connected = false;
  int state = kInProgress;
  // The calls of `ncclCommGetAsyncError` until a send is done.
  int polls = 0;
  // The receive that is not done.
  void* into = nullptr;
  Frame expected = {};
  int from = 0;
  off_t received = 0;
};

void log(const std::string& line) {
  if (const char* path = getenv("FAKE_NCCL_LOG")) {
    int file = open(path, O_WRONLY | O_APPEND | O_CREAT, 0600);
    const std::string text = line + "\n";
    if (file < 0 || write(file, text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
      perror("the fake NCCL's log cannot be written");
      abort();
    }
    close(file);
  }
}

int rule(const char* broken) {
  log(std::string("broken rule: ") + broken);
  return kInvalidUsage;
}

// Whether this call of `what` is to fail. Does not return if it is to kill the process.
bool fails(const std::string& what) {
  static std::map<std::string, int> calls;
  const int number = calls[what]++;
  const char* fault = getenv("FAKE_NCCL_FAULT");
  const char* process = getenv("OMPI_COMM_WORLD_RANK");
  if (!fault || !process) {
    return false;
  }
  const std::string place = what + ":" + process + ":" + std::to_string(number);
  if (fault == "kill-" + place) {
    kill(getpid(), SIGKILL);
  }
  return fault == place;
}

// Tells the mock devices that a stream uses memory.
void use(void* stream, const void* address, bool writes, const char* name) {
  using Use = void (*)(int64_t, const void*, bool, const char*);
  const char* mock = getenv("PIPE_MOCK_DEVICE_USE");
  if (mock) {
    reinterpret_cast<Use>(strtoull(mock, nullptr, 16))(
        reinterpret_cast<int64_t>(stream), address, writes, name);
  }
}

std::string mailbox(const Comm& comm, int from, int to) {
  return comm.path + "-" + std::to_string(from) + "-" + std::to_string(to);
}

// Whether the other processes have joined.
bool all_joined(const Comm& comm) {
  for (int rank = 0; rank < comm.size; ++rank) {
    if (access((comm.path + "-joined-" + std::to_string(rank)).c_str(), F_OK) != 0) {
      return false;
    }
  }
  return true;
}

// Takes the next message, if it is there.
int take(Comm& comm) {
  int file = open(mailbox(comm, comm.from, comm.rank).c_str(), O_RDONLY);
  if (file < 0) {
    return kInProgress;
  }
  Frame frame;
  struct stat status;
  int result = kInProgress;
  if (fstat(file, &status) == 0 && status.st_size >= comm.received + off_t(sizeof(frame)) &&
      pread(file, &frame, sizeof(frame), comm.received) == sizeof(frame)) {
    if (frame.count != comm.expected.count || frame.type != comm.expected.type) {
      result = rule("a receive has another count or type than its send");
    } else if (status.st_size >= comm.received + off_t(sizeof(frame)) + frame.count) {
      result = pread(file, comm.into, frame.count, comm.received + sizeof(frame)) == frame.count
          ? kSuccess
          : kSystemError;
      comm.received += sizeof(frame) + frame.count;
    }
  }
  close(file);
  return result;
}

// Whether a communication may be queued.
bool may_begin(const Comm& comm, int peer) {
  if (comm.state == kInProgress) {
    rule("a call while the last one is in progress");
    return false;
  }
  if (comm.state != kSuccess || peer < 0 || peer >= comm.size || peer == comm.rank) {
    rule("a call after an error, or with no other process");
    return false;
  }
  return true;
}

} // namespace

extern "C" {

int ncclGetVersion(int* version) {
  *version = 22809;
  return kSuccess;
}

const char* ncclGetErrorString(int) {
  return "the fake NCCL refuses this";
}

const char* ncclGetLastError(Comm*) {
  return "";
}

int cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return 0;
}

int cuDeviceGetUuid(char* uuid, int device) {
  const int pid = getpid();
  std::memset(uuid, 0, 16);
  if (getenv("FAKE_NCCL_ONE_GPU")) {
    return 0;
  }
  std::memcpy(uuid, &pid, sizeof(pid));
  std::memcpy(uuid + sizeof(pid), &device, sizeof(device));
  return 0;
}

int ncclGetUniqueId(UniqueId* id) {
  static int count = 0;
  const char* folder = getenv("TMPDIR");
  snprintf(
      id->text,
      sizeof(id->text),
      "%s/fake-nccl-%d-%d",
      folder ? folder : "/tmp",
      static_cast<int>(getpid()),
      count++);
  return kSuccess;
}

int ncclCommInitRankConfig(Comm** comm, int size, UniqueId id, int rank, const Config* config) {
  if (config->magic != 0xcafebeef || config->blocking != 0 || config->size < sizeof(Config)) {
    return rule("a communicator without settings");
  }
  if (fails("init")) {
    return kSystemError;
  }
  *comm = new Comm{std::string(id.text), size, rank};
  const std::string joined = (*comm)->path + "-joined-" + std::to_string(rank);
  int file = open(joined.c_str(), O_WRONLY | O_CREAT, 0600);
  if (file < 0) {
    return kSystemError;
  }
  close(file);
  log("join");
  return kInProgress;
}

int ncclCommGetAsyncError(Comm* comm, int* state) {
  if (comm->state == kInProgress) {
    if (!comm->connected) {
      comm->connected = all_joined(*comm);
      comm->state = comm->connected ? kSuccess : kInProgress;
    } else if (comm->into) {
      comm->state = take(*comm);
      comm->into = comm->state == kInProgress ? comm->into : nullptr;
    } else if (--comm->polls <= 0) {
      comm->state = kSuccess;
    }
  }
  *state = comm->state;
  return kSuccess;
}

int ncclSend(const void* memory, size_t count, int type, int peer, Comm* comm, void* stream) {
  if (!may_begin(*comm, peer)) {
    return kInvalidUsage;
  }
  if (fails("send")) {
    return kSystemError;
  }
  use(stream, memory, false, "ncclSend");
  int file = open(mailbox(*comm, comm->rank, peer).c_str(), O_WRONLY | O_APPEND | O_CREAT, 0600);
  const Frame frame = {static_cast<int64_t>(count), type};
  const bool written = file >= 0 && write(file, &frame, sizeof(frame)) == sizeof(frame) &&
      write(file, memory, count) == static_cast<ssize_t>(count);
  if (file >= 0) {
    close(file);
  }
  log("send " + std::to_string(count));
  comm->state = written ? kInProgress : kSystemError;
  comm->polls = 2;
  return comm->state;
}

int ncclRecv(void* memory, size_t count, int type, int peer, Comm* comm, void* stream) {
  if (!may_begin(*comm, peer)) {
    return kInvalidUsage;
  }
  use(stream, memory, true, "ncclRecv");
  log("receive " + std::to_string(count));
  comm->state = kInProgress;
  comm->into = memory;
  comm->expected = {static_cast<int64_t>(count), type};
  comm->from = peer;
  return kInProgress;
}

int ncclCommAbort(Comm* comm) {
  log("abort");
  for (int other = 0; other < comm->size; ++other) {
    unlink(mailbox(*comm, other, comm->rank).c_str());
  }
  unlink((comm->path + "-joined-" + std::to_string(comm->rank)).c_str());
  delete comm;
  return kSuccess;
}

} // extern "C"
