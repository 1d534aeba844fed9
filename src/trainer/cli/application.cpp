#include "trainer/cli/application.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <fcntl.h>
#include <iostream>
#include <new>
#include <optional>
#include <string_view>
#include <unistd.h>

#include "comm/join_watchdog.h"
#include "comm/mpi/mpi_communicator.h"
#include "comm/rendezvous.h"
#include "comm/world.h"
#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "core/text.h"
#include "trainer/checkpoint/run_directory.h"
#include "trainer/cli/digest_command.h"
#include "trainer/cli/doctor_command.h"
#include "trainer/cli/inspect.h"
#include "trainer/cli/model_commands.h"
#include "trainer/cli/runs_command.h"
#include "trainer/cli/train_command.h"
#include "trainer/config/config.h"
#include "trainer/config/paths.h"
#include "trainer/run/job.h"
#include "trainer/run/preemption.h"
#include "watch/watchdog.h"

namespace lockstep {
namespace {

#ifndef LOCKSTEP_VERSION
#error "LOCKSTEP_VERSION is set by the build"
#endif

constexpr const char* out_of_memory =
    "there is not enough memory: lower train.global_batch or train.eval_batch, make the model or the number "
    "of "
    "classes smaller, or start fewer ranks on this machine";

bool runs_on_ranks(const std::string& command) {
  return command == "train" || command == "evaluate" || command == "predict" || command == "doctor";
}

/// Where a standard descriptor is closed, the next file that is opened would take its number, and what is
/// meant for a terminal would end up in a checkpoint. Reading stands in for all three, so that a write to one
/// fails and is noticed.
void keep_standard_descriptors() {
  for (int fd = 0; fd <= 2; ++fd)
    if (fcntl(fd, F_GETFD) == -1 && errno == EBADF && open("/dev/null", O_RDONLY) != fd)
      throw InternalError("a closed standard descriptor could not be replaced");
}

/// A result that nobody can read must not pass for one. A training leaves its results in the run directory,
/// and other commands in the file of --output: these are complete all the same, and a warning says what is
/// not.
void check_output(const CommandLine& line, const Log& log) {
  if (std::cout.flush()) return;
  const bool kept = (line.command == "train" && line.options.count("dry-run") == 0 &&
                     line.options.count("print-run-dir") == 0) ||
                    line.options.count("output") != 0;
  const char* what = "standard output: it cannot be written; what was printed there is not complete";
  if (!kept) throw InputError(what);
  log.warning("{}", what);
}

/// Commands that one process does alone. They look at no launcher and never call MPI: every copy does all of
/// it.
int run_alone(const CommandLine& line, const Log& log) {
  const auto flag = [&](const char* name) { return line.options.count(name) != 0; };
  int code = static_cast<int>(ExitCode::done);
  if (flag("version")) {
    std::cout << "lockstep " LOCKSTEP_VERSION "\n";
  } else if (flag("help") || line.command.empty()) {
    std::cout << help_text(line.command);
  } else if (line.command == "train") {  // --print-run-dir
    std::cout << meant_run_directory(line) << '\n';
  } else if (line.command == "inspect") {
    std::cout << inspect_path(line.arguments.at(0));
  } else if (line.command == "digest") {
    code = digest_command(line, log);
  } else if (line.command == "runs") {
    runs_command(line);
  } else if (line.command == "export") {
    code = export_command(line, log);
  } else {
    throw InternalError("the command \"" + line.command + "\" is in the table but nobody runs it");
  }
  check_output(line, log);
  return code;
}

/// Whether the arguments of `train` only ask for something, so that there is nothing to save.
bool asks_only(int argc, char** argv) {
  return std::any_of(argv, argv + argc, [](std::string_view word) {
    return word == "--help" || word == "--version" || word == "--dry-run" || word == "--print-run-dir";
  });
}

int run_on_ranks(const CommandLine& line, Job& job) {
  if (line.command == "train") return train_command(line, job);
  if (line.command == "evaluate") return evaluate_command(line, job);
  if (line.command == "predict") return predict_command(line, job);
  if (line.command == "doctor") return doctor_command(line, job);
  throw InternalError("the command \"" + line.command + "\" is in the table but nobody runs it");
}

/// watchdog.timeout before the ranks share the config: from the flag, else from the file, else the default. A
/// file that cannot be read is somebody else's error, later.
double early_timeout(const CommandLine& line) {
  ConfigValues values;
  const auto flag = line.overrides.find("watchdog.timeout");
  if (flag != line.overrides.end()) {
    values.insert(*flag);
  } else if (!line.config_file.empty()) {
    try {
      const ConfigValues file = read_config_file(line.config_file);
      if (const auto at = file.find("watchdog.timeout"); at != file.end()) values.insert(*at);
    } catch (const Error&) {
    }
  }
  const auto given = values.find("watchdog.timeout");
  return given == values.end() ? Config().watchdog.timeout
                               : parse_double(given->second.value).value_or(Config().watchdog.timeout);
}

/// MPI, a rank's own files and connections to the ranks of other hosts; the least that works is 22.
constexpr std::uint64_t open_files_needed = 64;

/// Leaves the mark that this rank has been used, when MPI is finalised: it is made before MPI starts.
class UsedRank {
 public:
  explicit UsedRank(const Environment& environment) : environment_(environment) {}
  ~UsedRank() { mark_rank_as_used(environment_); }
  UsedRank(const UsedRank&) = delete;
  UsedRank& operator=(const UsedRank&) = delete;

 private:
  const Environment& environment_;
};

/// `early`: an error of the command line. It may be this rank's alone (ranks may be given arguments and
/// variables of their own), so ranks agree on it too: one of them tells it, and all leave in order.
int with_ranks(const CommandLine& line, std::exception_ptr early, Log& log, int argc, char** argv,
               const GraphFunction& custom) {
  const Environment as_launched = copied_environment();
  refuse_doubtful_launch(0, as_launched);
  allow_open_files(open_files_needed);
  const UsedRank used(as_launched);
  start_without_daemon(as_launched);
  Environment watched = as_launched;
  try {
    (void)watchdog_timeout_of(as_launched);
  } catch (const Error&) {
    if (!early) early = std::current_exception();
    watched = [as_launched](const char* name) {
      return std::string_view(name) == watchdog_timeout_variable ? nullptr : as_launched(name);
    };
  }
  Watchdog watchdog(watched, early_timeout(line));
  const FlightScope scope(&watchdog.recorder(), Activity::start);
  MpiEnvironment mpi(&argc, &argv, &watchdog.recorder());
  if (mpi.world_size() > 1) log.set_rank(mpi.world_rank());
  try {
    refuse_doubtful_launch(mpi.world_size(), as_launched);
    const std::unique_ptr<Communicator> comm = make_mpi_communicator(mpi);
    log.set_rank(comm->size() > 1 && comm->rank() > 0 ? comm->rank() : -1);
    join_watchdog(watchdog, *comm);
    agree_on_error(*comm, [&] {
      if (early) std::rethrow_exception(early);
    });
    const auto warn = [&](const std::string& text) { log.warning("{}", text); };
    Job job{*comm, log, [&](std::size_t bytes) { return make_world_communicator(mpi, bytes, warn); },
            &watchdog, custom};
    const int code = run_on_ranks(line, job);
    agree_on_error(*comm, [&] {
      const bool stopped =
          code == static_cast<int>(ExitCode::preempted) || code == static_cast<int>(ExitCode::interrupted);
      if (!stopped) return check_output(line, log);
      // What such a run leaves is its checkpoint, and whoever starts it again goes by the code.
      if (!std::cout.flush()) log.warning("standard output: it cannot be written");
    });
    return code;
  } catch (const SilentError& e) {
    log.note(e.what());
    return static_cast<int>(e.code());
  } catch (const Error& e) {
    log.error("{}", e.what());
    if (e.agreed() || mpi.world_size() == 1) return static_cast<int>(e.code());
    watchdog.failing();
    MpiEnvironment::abort(static_cast<int>(e.code()));
  } catch (const std::bad_alloc&) {
    log.error("{}", out_of_memory);
    watchdog.failing();
    MpiEnvironment::abort(static_cast<int>(ExitCode::input));
  } catch (const std::exception& e) {
    log.error("internal error: {}", e.what());
    watchdog.failing();
    MpiEnvironment::abort(static_cast<int>(ExitCode::internal));
  }
}

}  // namespace

int run_application(int argc, char** argv, const GraphFunction& custom) {
  Log log;
  try {
    keep_standard_descriptors();
    // A file that grows beyond a limit of the shell (ulimit -f) is then an error like a full disk.
    std::signal(SIGXFSZ, SIG_IGN);
    const std::optional<LauncherIdentity> launcher = launcher_identity();
    // Before all else, so that a signal during the start is not lost on a process that it would end.
    if (argc > 1 && std::string_view(argv[1]) == "train" && !asks_only(argc, argv)) {
      const bool direct = !launcher || launcher->launcher == "srun";
      remember_preemption({direct, direct, !launcher || launcher->rank == 0});
    }
    try {
      CommandLine line;
      std::exception_ptr early;
      try {
        line = parse_command_line(argc, argv);
        check_paths(line);
      } catch (const Error&) {
        // Where other ranks may be on their way into MPI, they would wait there for this one.
        if (!launcher || launcher->size == 1 || argc < 2 || !runs_on_ranks(argv[1])) throw;
        early = std::current_exception();
      }
      const auto flag = [&](const char* name) { return line.options.count(name) != 0; };
      if (early ||
          (runs_on_ranks(line.command) && !flag("help") && !flag("version") && !flag("print-run-dir")))
        return with_ranks(line, early, log, argc, argv, custom);
      return run_alone(line, log);
    } catch (const Error& e) {
      log.error("{}", e.what());
      return static_cast<int>(e.code());
    }
  } catch (const std::bad_alloc&) {
    log.error("{}", out_of_memory);
    return static_cast<int>(ExitCode::input);
  } catch (const std::exception& e) {
    log.error("internal error: {}", e.what());
    return static_cast<int>(ExitCode::internal);
  }
}

}  // namespace lockstep
