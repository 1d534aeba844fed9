#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace lockstep {

/// What a rank is doing, as far as somebody who looks for a hang wants to know.
enum class Activity : std::uint32_t {
  nothing,  ///< between phases
  // Phases: the rank works by itself.
  start,      ///< from the first line of main
  load_data,  ///< opening data sets
  compile,    ///< planning the model
  train,      ///< what lies between the phases of a step
  load,       ///< a batch
  compute,    ///< forward and backward
  optimizer,
  evaluate,
  save,
  output,  ///< writing to a reader who may take his time
  end,
  // Waits that not every rank takes part in.
  mpi_init,
  message,
  free_window,
  // Collectives: entered by every rank in the same order, so they are counted.
  rendezvous,
  barrier,
  broadcast,
  all_gather,
  all_reduce,
  shared_window,
  begin_step,
  exchange,
  gather_parameters,
  finalize
};
/// For reports: "bucket 12 of step 840" is made of it by describe().
const char* name_of(Activity activity);
/// The rank waits for others: it is not the one that is waited for.
bool waits(Activity activity);
/// Every rank enters it in the same order.
bool counted(Activity activity);
/// By how much longer than the time-out it may last without progress; 0: for ever.
int patience_of(Activity activity);

/// One entry of the recorder. Times are nanoseconds of the node's monotonic clock, which all of its processes
/// share.
struct FlightEvent {
  std::uint64_t number = 0;  ///< events of this rank are numbered from 1; 0: there is none
  Activity activity = Activity::nothing;
  std::int64_t step = -1;    ///< -1: before the first
  std::int64_t bucket = -1;  ///< -1: none
  std::uint64_t bytes = 0;
  std::uint64_t call = 0;  ///< which collective of the rank it is, from 1; 0: none
  std::int64_t begin_ns = 0;
  std::int64_t end_ns = 0;  ///< 0: under way
};
/// "the exchange of bucket 12 of step 840", "the all-gather of 96 B after step 840".
std::string describe(const FlightEvent& event);

/// What a device has told of the collectives that run on it by themselves, while the host does something
/// else.
struct CollectiveProgress {
  std::uint64_t entered = 0;  ///< pieces of collective work that began on the device
  std::uint64_t left = 0;     ///< and that ended
  std::int64_t bucket = -1;   ///< of the last one entered
  bool inside() const { return entered > left; }
  friend bool operator==(const CollectiveProgress&, const CollectiveProgress&) = default;
};
/// "collective 13 on the device (bucket 2)" or "12 collectives done on the device".
std::string describe(const CollectiveProgress& progress);

/// An event in memory that one thread writes and other threads and processes read at any time.
class FlightCell {
 public:
  void write(const FlightEvent& event) noexcept;
  /// The event, or one with number 0 when it was being written all the time.
  FlightEvent read() const noexcept;

 private:
  std::atomic<std::uint64_t> version_{0};  ///< odd while it is being written
  std::array<std::atomic<std::uint64_t>, 8> words_{};
};

/// Where a process stands in its life.
enum class RankState : std::uint32_t {
  absent,  ///< nobody has come
  running,
  failing,     ///< it has reported an error and ends the job with a code of its own
  left,        ///< it has ended in order
  told_to_end  ///< its launcher ends it
};

/// What a rank shows to the watchdogs of its node: plain memory without pointers, shared between processes.
/// Memory full of zeros is a slot that nobody has taken.
/// What different threads write lies on cache lines of its own.
// NOLINTNEXTLINE(clang-analyzer-optin.performance.Padding)
struct FlightSlot {
  static constexpr std::size_t events = 128;
  static constexpr std::size_t calls = 32;

  std::atomic<RankState> state{RankState::absent};
  std::atomic<std::int32_t> rank{-1};
  std::atomic<std::int32_t> pid{0};
  std::atomic<std::uint64_t> start_time{0};  ///< of the process, as /proc tells it: a pid may be used again
  std::atomic<std::int32_t> patience{1};     ///< of what it does now; 0: endless
  std::atomic<std::uint32_t> working{0};     ///< inside an activity that waits it does work of its own
  std::atomic<std::int32_t> waiting{0};      ///< threads of it that wait for peers, inside of that
  std::atomic<std::uint32_t> prompt{0};      ///< its watchdog runs before all ordinary threads
  std::atomic<std::uint64_t> device_entered{0};  ///< CollectiveProgress of its device
  std::atomic<std::uint64_t> device_left{0};
  std::atomic<std::int64_t> device_bucket{-1};
  alignas(64) std::atomic<std::uint64_t> beats{0};        ///< rises with all progress
  alignas(64) std::atomic<std::uint64_t> watch_beats{0};  ///< rises while the process's watchdog runs
  alignas(64) FlightCell now;                             ///< the innermost thing under way
  std::atomic<std::uint64_t> written{0};                  ///< events so far
  std::array<FlightCell, events> ring;                    ///< event n lies at n % events
  std::array<FlightCell, calls> last_calls;               ///< collective n lies at n % calls
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free && std::atomic<RankState>::is_always_lock_free);

/// The events of a slot, oldest first; those that were overwritten or half written are left out.
std::vector<FlightEvent> events_of(const FlightSlot& slot, std::size_t most = FlightSlot::events);
/// What its device has told last.
CollectiveProgress device_of(const FlightSlot& slot);
/// Its last collectives, oldest first.
std::vector<FlightEvent> calls_of(const FlightSlot& slot);

/// Writes a rank's slot: what it does, since when, and that it moves on. It costs some tens of nanoseconds an
/// event and allocates nothing. begin(), end(), set_step() and at_bucket() act only in the thread that made
/// the recorder, which is the one that the rank is judged by; tick() and note() in any.
class FlightRecorder {
 public:
  /// `slot` is borrowed.
  explicit FlightRecorder(FlightSlot& slot);
  FlightRecorder(const FlightRecorder&) = delete;
  FlightRecorder& operator=(const FlightRecorder&) = delete;

  bool mine() const noexcept { return std::this_thread::get_id() == owner_; }
  void begin(Activity activity, std::uint64_t bytes = 0, std::int64_t bucket = -1) noexcept;
  /// Of what was begun last.
  void end() noexcept;
  /// The step that later events belong to.
  void set_step(std::int64_t step) noexcept;
  /// Where inside what was begun last it is now.
  void at_bucket(std::int64_t bucket) noexcept;
  /// Progress inside something long.
  void tick() noexcept {
    slot_.beats.store(slot_.beats.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }
  /// Inside of an activity that waits for others the rank's own thread does work of its own, or waits again:
  /// then it is waited for.
  void work(bool own) noexcept {
    if (mine()) slot_.working.store(own ? 1 : 0, std::memory_order_relaxed);
  }
  /// 1 and -1 around a wait for peers, in any thread: while one of them waits, the rank does.
  void wait_for_peers(int change) noexcept { slot_.waiting.fetch_add(change, std::memory_order_relaxed); }
  /// Something that is over.
  void note(Activity activity, std::int64_t step, std::int64_t bucket, std::uint64_t bytes,
            std::int64_t begin_ns) noexcept;
  /// From now on `ask` is asked for what the device does, in any thread, until this is called again; with
  /// nullptr nobody is. When it returns, what was given before is not asked any more, nor under way.
  void watch_device(std::function<CollectiveProgress()> ask);
  /// Shows what the device tells; a change is progress. For the watchdog's thread.
  void look_at_device();
  std::int64_t step() const noexcept { return step_; }
  static std::int64_t now() noexcept;
  FlightSlot& slot() noexcept { return slot_; }

 private:
  struct Open {
    FlightEvent event;
    int patience;
  };
  void show() noexcept;
  std::uint64_t append(FlightEvent& event) noexcept;

  FlightSlot& slot_;
  std::thread::id owner_ = std::this_thread::get_id();
  std::array<Open, 16> open_;
  std::size_t depth_ = 0;  ///< may be more than `open_` holds: what is deeper is not shown
  std::atomic<std::int64_t> step_{-1};
  std::uint64_t calls_ = 0;
  std::mutex device_mutex_;
  std::function<CollectiveProgress()> ask_device_;
};

/// An activity for as long as it lives. A null recorder records nothing.
class FlightScope {
 public:
  FlightScope(FlightRecorder* recorder, Activity activity, std::uint64_t bytes = 0, std::int64_t bucket = -1)
      : recorder_(recorder) {
    if (recorder_ == nullptr) return;
    mine_ = recorder_->mine();
    if (mine_) {
      recorder_->begin(activity, bytes, bucket);
    } else {
      activity_ = activity;
      bytes_ = bytes;
      bucket_ = bucket;
      begin_ns_ = FlightRecorder::now();
    }
  }
  ~FlightScope() {
    if (recorder_ == nullptr) return;
    if (mine_)
      recorder_->end();
    else
      recorder_->note(activity_, recorder_->step(), bucket_, bytes_, begin_ns_);
  }
  FlightScope(const FlightScope&) = delete;
  FlightScope& operator=(const FlightScope&) = delete;

 private:
  FlightRecorder* recorder_;
  bool mine_ = false;
  Activity activity_ = Activity::nothing;
  std::uint64_t bytes_ = 0;
  std::int64_t bucket_ = -1;
  std::int64_t begin_ns_ = 0;
};

/// Work of the rank's own inside an activity that waits, for as long as it lives. A null recorder records
/// nothing.
class OwnWork {
 public:
  explicit OwnWork(FlightRecorder* recorder) : recorder_(recorder) {
    if (recorder_ != nullptr) recorder_->work(true);
  }
  ~OwnWork() {
    if (recorder_ != nullptr) recorder_->work(false);
  }
  OwnWork(const OwnWork&) = delete;
  OwnWork& operator=(const OwnWork&) = delete;

 private:
  FlightRecorder* recorder_;
};

/// A wait for peers inside of that, in any thread.
class PeerWait {
 public:
  explicit PeerWait(FlightRecorder* recorder) : recorder_(recorder) {
    if (recorder_ != nullptr) recorder_->wait_for_peers(1);
  }
  ~PeerWait() {
    if (recorder_ != nullptr) recorder_->wait_for_peers(-1);
  }
  PeerWait(const PeerWait&) = delete;
  PeerWait& operator=(const PeerWait&) = delete;

 private:
  FlightRecorder* recorder_;
};

}  // namespace lockstep
