"""Stages of a call that must end by itself: each with a time limit of its own, its output appended to one log as it
comes and closed by a line "STAGE name rc seconds", its results in a table that is written anew after every row. Used by
first.py. A stage that fails, hangs or prints for ever takes nothing from the next.

Codes: 124 is a time limit, 125 what was not begun since no time was left, 127 a program that is not there, 128 + n the
signal n."""
import ctypes
import json
import os
import signal
import subprocess
import threading
import time

HEAD_BYTES = 128 << 10  # of what one program prints, as it comes; behind that only the end is kept
TAIL_BYTES = 32 << 10
STAGE_BYTES = 256 << 10  # the same, of all programs of a stage
STDERR_LINES = 30  # of a program that failed, once more, together
LINE_BYTES = 4096  # a longer one is cut
GRACE = 2.0  # seconds between asking a program to end and ending it
RESERVE = 10.0  # seconds at the end of a call in which nothing is under way any more
LIBC = ctypes.CDLL(None, use_errno=True)


class Ended(Exception):
    """The call itself is asked to end."""


def die_with_parent():
    LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def tell(text):
    try:
        print(text, flush=True)
    except OSError:
        pass  # nobody listens: the log has it


def processes_with(mark):
    """Those whose environment holds `mark`, or begins with it where it ends in a dot, wherever they went: ranks of a job
    have process groups of their own."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as f:
                words = f.read().split(b"\0")
            if mark.encode() in words or mark.endswith(".") and any(w.startswith(mark.encode()) for w in words):
                found.append(int(name))
        except OSError:
            pass  # ended meanwhile, or another user's
    return found


def end_all_with(mark):
    for _ in range(5):  # one may be starting another
        left = processes_with(mark)
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        if not left:
            break
        time.sleep(0.01)


class Table:
    """Sections of rows in one Markdown file, whole at any moment: it is written beside itself and renamed."""

    def __init__(self, path, title):
        self.path, self.title, self.sections = path, title, {}
        self.write()

    def section(self, name, *columns):
        self.sections.setdefault(name, (columns, {}))
        return name

    def row(self, section, key, *cells):
        """Sets the row `key`; cells that are None stay as they were."""
        columns, rows = self.sections[section]
        old = rows.get(key, [""] * (len(columns) - 1))
        cells = list(cells) + [None] * (len(old) - len(cells))
        rows[key] = [o if c is None else str(c).replace("|", "/").replace("\n", " ") for c, o in zip(cells, old)]
        self.write()

    def text(self):
        lines = [f"# {self.title}", ""]
        for name, (columns, rows) in self.sections.items():
            lines += [f"## {name}", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
            lines += ["| " + " | ".join([key, *cells]) + " |" for key, cells in rows.items()] + [""]
        return "\n".join(lines)

    def write(self):
        try:
            with open(self.path + ".new", "w", encoding="utf-8") as f:
                f.write(self.text())
            os.replace(self.path + ".new", self.path)
        except OSError as e:  # the figures are in the log, too
            tell(f"the table could not be written: {e}")


class Running:
    """A program in a session of its own, under a time limit; what it prints goes into the log."""

    def __init__(self, stage, name, argv, limit, env=None, quiet=False):
        self.stage, self.name, self.quiet = stage, name, quiet
        self.begin, self.rc, self.seconds, self.asked = time.monotonic(), None, 0.0, None
        self.end = min(self.begin + limit, stage.end)
        self.mark = f"LOCKSTEP_STAGE={os.getpid()}.{stage.call.next_number()}"
        self.kept = {"out": bytearray(), "err": bytearray()}  # the end of each stream
        self.printed = self.left_out = 0
        self.process, self.readers = None, []
        if stage.left() <= 0:
            self.rc = 125
            stage.call.log(f"{name}: the stage had no time left for it")
            return
        stage.call.log(f"{name}$ {' '.join(argv)}")
        environment = {**os.environ, **(env or {}), "LOCKSTEP_STAGE": self.mark.split("=")[1]}
        try:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                            stderr=subprocess.PIPE, env=environment, start_new_session=True,
                                            preexec_fn=die_with_parent)
        except OSError as e:
            self.rc = 127
            self.kept["err"] += str(e).encode()
            stage.call.log(f"{name}| {e}")
            return
        stage.call.running.append(self)
        for pipe, which in ((self.process.stdout, "out"), (self.process.stderr, "err")):
            reader = threading.Thread(target=self.read, args=(pipe.fileno(), which), daemon=True)
            reader.start()
            self.readers.append(reader)

    def read(self, pipe, which):
        kept, line = self.kept[which], b""
        while True:
            try:
                chunk = os.read(pipe, 1 << 16)
            except (OSError, ValueError):
                chunk = b""
            kept += chunk
            del kept[:-TAIL_BYTES]
            if chunk and self.printed >= HEAD_BYTES:
                self.printed, self.left_out, line = self.printed + len(chunk), self.left_out + len(chunk), b""
                continue
            line += chunk
            whole, newline, line = line.rpartition(b"\n")
            if not chunk or len(line) > LINE_BYTES:
                whole, newline, line = whole + newline + line, b"", b""
            self.printed += len(whole)
            if whole:
                self.stage.say_lines(self, whole)
            if not chunk:
                return

    def is_over(self):
        return self.process is None or self.process.poll() is not None

    def wait(self):
        """Until it has ended by itself or is ended; the code."""
        if self.process is None or self.rc is not None:
            return self.rc
        while not self.is_over() and time.monotonic() < self.end:
            self.stage.call.tick()
            time.sleep(0.02)
        self.stop()
        code = self.process.returncode
        self.rc = 124 if self.asked else 128 - code if code < 0 else code
        self.close()
        return self.rc

    def ask(self):
        """Asks it to end, once."""
        if self.asked is None and not self.is_over():
            self.asked = time.monotonic()
            self.signal(signal.SIGTERM)

    def stop(self):
        """Ends it and everything that it started."""
        if not self.is_over():
            self.ask()
            while not self.is_over() and time.monotonic() < self.asked + GRACE * self.stage.call.scale:
                self.stage.call.tick()
                time.sleep(0.02)
        self.signal(signal.SIGKILL)
        end_all_with(self.mark)
        try:
            self.process.wait(timeout=3)
        except subprocess.TimeoutExpired:  # inside of the driver it cannot be ended
            self.process.returncode = -signal.SIGKILL
            self.stage.call.log(f"{self.name}: it does not end, not even by SIGKILL; going on without it")

    def signal(self, number):
        try:
            os.killpg(self.process.pid, number)
        except OSError:
            pass

    def close(self):
        self.stage.call.running.remove(self)
        for reader in self.readers:
            reader.join(1)
        self.seconds = time.monotonic() - self.begin
        if self.left_out:
            self.stage.call.log(f"{self.name}: {self.left_out} bytes were left out here; the end:\n" +
                                "\n".join(self.lines("out", 20)))
        if self.rc:
            what = {124: "it was ended at its time limit"}.get(self.rc, f"it failed with {self.rc}")
            last = self.lines("err", STDERR_LINES)
            self.stage.call.log(f"{self.name}: {what} after {self.seconds:.1f} s; the last lines of its stderr:\n" +
                                "\n".join(last))
            if not self.quiet:
                tell(f"{self.name}: {what}; {' / '.join(line[:150] for line in last[-4:])}")

    def lines(self, which, count):
        text = bytes(self.kept[which]).decode("utf-8", "replace")
        return [line[:LINE_BYTES] for line in text.splitlines()[-count:]]

    def json(self):
        """The last line of its output that is JSON, or None."""
        for line in reversed(self.lines("out", 1000)):
            if line.startswith("{"):
                try:
                    return json.loads(line)
                except ValueError:
                    return None
        return None


class Stage:
    def __init__(self, call, name, limit):
        self.call, self.name, self.rc, self.note = call, name, 0, ""
        self.begin = time.monotonic()
        self.end = min(self.begin + limit * call.scale, call.end)
        self.said = 0

    def left(self):
        return self.end - time.monotonic()

    def start(self, name, argv, limit=None, env=None, quiet=False):
        limit = self.call.inner_limit if limit is None else limit
        return Running(self, f"{self.name}.{name}", argv, limit * self.call.scale, env, quiet)

    def run(self, name, argv, limit=None, env=None, quiet=False):
        """Runs a program to its end; it failed where its .rc is not 0. Then so has the stage, unless `quiet`."""
        running = self.start(name, argv, limit, env, quiet)
        running.wait()
        if not quiet:
            self.failed(running.rc)
        return running

    def failed(self, rc):
        self.rc = self.rc or rc

    def say_lines(self, running, text):
        """Of what a program printed, as long as the stage may."""
        with self.call.lock:
            room = STAGE_BYTES - self.said
            self.said += len(text)
        if room <= 0:
            running.left_out += len(text)
            return
        for line in text[:room].decode("utf-8", "replace").splitlines():
            self.call.log(f"{running.name}| {line}")


class Call:
    """One call of `seconds` in all. `scale` shortens every time, for tests."""

    def __init__(self, folder, title, seconds, scale=1.0, inner_limit=120):
        self.scale, self.inner_limit = scale, inner_limit
        self.begin = time.monotonic()
        self.end = self.begin + (seconds - RESERVE) * scale
        self.lock, self.running, self.number = threading.Lock(), [], 0
        self.mirrors, self.looked = [], 0.0
        os.makedirs(folder, exist_ok=True)
        self.folder = folder
        self.file = os.open(os.path.join(folder, "log.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.table = Table(os.path.join(folder, "results.md"), title)
        self.stages = self.table.section("Stages", "stage", "code", "seconds", "note")
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self.asked_to_end)

    def asked_to_end(self, number, _):
        for other in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(other, signal.SIG_IGN)
        raise Ended(number)

    def next_number(self):
        self.number += 1
        return self.number

    def log(self, text):
        with self.lock:
            try:
                os.write(self.file, (text + "\n").encode("utf-8", "replace"))
            except OSError:
                pass  # a full disk: the measurement goes on, and its end is printed

    def left(self):
        return self.end - time.monotonic()

    def mirror(self, source, name):
        """Keeps a copy of a file among the results, however the call ends."""
        self.mirrors.append([source, os.path.join(self.folder, name), None])

    def tick(self):
        """While something is waited for: asks to end whatever is over its time, and keeps the copies."""
        for running in self.running:
            if time.monotonic() >= running.end:
                running.ask()
        if time.monotonic() - self.looked < 1:
            return
        self.looked = time.monotonic()
        for mirror in self.mirrors:
            source, copy, seen = mirror
            try:
                state = os.stat(source)
                if seen == (state.st_mtime_ns, state.st_size):
                    continue
                with open(source, "rb") as f, open(copy + ".new", "wb") as g:
                    g.write(f.read())
                os.replace(copy + ".new", copy)
                mirror[2] = (state.st_mtime_ns, state.st_size)
            except OSError:
                pass  # not there yet

    def stage(self, name, limit, body):
        """Runs body(stage). Whatever becomes of it, the line is written."""
        stage = Stage(self, name, limit)
        if self.left() < 3 * self.scale:
            self.close_stage(stage, 125, "no time was left")
            return
        self.table.row(self.stages, name, "under way", "", "")
        try:
            body(stage)
        except Ended as e:
            self.stop_all()
            self.close_stage(stage, 128 + e.args[0], "the call was ended")
            raise
        except Exception as e:  # a mistake in one stage must not cost the others
            stage.failed(1)
            stage.note = f"{type(e).__name__}: {e}"
            self.log(f"{name}: {stage.note}")
        self.close_stage(stage, stage.rc, stage.note)

    def close_stage(self, stage, rc, note):
        seconds = f"{time.monotonic() - stage.begin:.1f}"
        self.log(f"STAGE {stage.name} {rc} {seconds}" + (f" {note}" if note else ""))
        tell(f"STAGE {stage.name} {rc} {seconds}" + (f" {note}" if note else ""))
        self.table.row(self.stages, stage.name, rc, seconds, note)
        self.looked = 0
        self.tick()

    def stop_all(self):
        for running in self.running:
            running.ask()
        for running in self.running:
            running.stop()
        end_all_with(f"LOCKSTEP_STAGE={os.getpid()}.")  # also one that was just being started
