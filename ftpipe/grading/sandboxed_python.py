"""Runs the source of a ``python`` grader, as a process of its own with ``python -I -B``; it imports nothing of ftpipe.

Before a byte of the source is read, the process gives up what it could do: the system calls that are not in
``ALLOWED_CALLS`` fail (seccomp, through the system's libseccomp), only Python's own folders can be read and nothing can
be written (Landlock), and memory and processor time are limited. So there is no network, no other program, no thread,
no signal to other processes, and no file of the user. If the system cannot do one of these, nothing is run.

stdin has the source as JSON in its first line, then a line for each answer; stdout gets a line for each of them.

Source: landlock(7) and seccomp(2), man7.org, read 2026-11-29; ``seccomp.h`` of libseccomp 2.5.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import sysconfig
import traceback

MAX_ERROR_CHARACTERS = 500
SOURCE_NAME = "grader.py"
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
LANDLOCK_VERSION_FLAG, LANDLOCK_RULE_PATH_BENEATH = 1, 1
READ_FILE, READ_DIR = 1 << 2, 1 << 3
FILE_RIGHTS_BY_VERSION = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""Version of Landlock → the rights to files that it knows; all but reading are given up."""
SECCOMP_ALLOW, SECCOMP_EPERM = 0x7FFF0000, 0x00050001
SECCOMP_EQUAL = 4
ALLOWED_CALLS = (
    *("read", "readv", "pread64", "write", "writev", "close", "lseek", "dup"),
    *("openat", "open", "fstat", "newfstatat", "stat", "lstat", "statx", "access", "faccessat", "faccessat2"),
    *("readlink", "readlinkat", "getdents64", "getcwd"),
    *("mmap", "munmap", "mremap", "mprotect", "madvise", "brk"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall"),
    *("futex", "sched_yield", "sched_getaffinity", "poll", "ppoll", "select", "pselect6"),
    *("clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep", "gettimeofday", "time", "times", "getrusage"),
    *("getrandom", "getpid", "gettid", "getuid", "geteuid", "getgid", "getegid", "uname", "sysinfo"),
    *("exit", "exit_group"),
)
ALLOWED_ARGUMENTS = {"fcntl": (1, 2, 3, 1030), "ioctl": (0x5401, 0x5450, 0x5451)}
"""Call → allowed values of its second argument: flags of files, and whether one is a terminal."""


class UnavailableError(Exception):
    """The system cannot limit the process."""


class _Comparison(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def give_up_rights(max_memory_bytes: int, max_cpu_seconds: int) -> None:
    """Limit this process, for ever.

    Raises:
        UnavailableError: The system cannot do it.
    """
    if not sys.platform.startswith("linux"):
        raise UnavailableError(f"it needs Linux, and this is {sys.platform}")
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        seccomp = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    except OSError as exc:
        raise UnavailableError("it needs libseccomp (Debian and Ubuntu: libseccomp2)") from exc
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise UnavailableError("the system does not let a process give up its privileges")
    limits = ((resource.RLIMIT_AS, max_memory_bytes), (resource.RLIMIT_CPU, max_cpu_seconds))
    for name, limit in (*limits, (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, 64)):
        resource.setrlimit(name, (limit, limit))
    _restrict_files(libc)
    _restrict_calls(seccomp)


def _restrict_files(libc: ctypes.CDLL) -> None:
    version = libc.syscall(LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(LANDLOCK_VERSION_FLAG))
    if version < 1:
        raise UnavailableError("it needs Landlock, which this system's kernel (5.13 or later has it) does not offer")
    known = FILE_RIGHTS_BY_VERSION[max(one for one in FILE_RIGHTS_BY_VERSION if one <= version)]
    handled = ctypes.c_uint64(known)
    ruleset = libc.syscall(LANDLOCK_CREATE_RULESET, ctypes.byref(handled), ctypes.c_size_t(8), ctypes.c_uint(0))
    if ruleset < 0:
        raise UnavailableError("Landlock refused the rules")
    for path in readable_paths():
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rights = READ_FILE | (READ_DIR if os.path.isdir(path) else 0)  # noqa: PTH112  # little is imported here
            rule = _PathBeneath(rights, handle)
            failed = libc.syscall(
                LANDLOCK_ADD_RULE, ruleset, LANDLOCK_RULE_PATH_BENEATH, ctypes.byref(rule), ctypes.c_uint(0)
            )
            os.close(handle)
            if failed:
                raise UnavailableError("Landlock refused a rule")
    if libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, ctypes.c_uint(0)):
        raise UnavailableError("Landlock refused to limit the process")
    os.close(ruleset)


def readable_paths() -> list[str]:
    """What Python itself needs: its modules, installed packages, the system's libraries and time zones."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    modules = [path for name in names if (path := sysconfig.get_path(name))]
    system = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo", "/etc/ld.so.cache"]
    return [*modules, *system, "/dev/null", "/dev/urandom"]


def _restrict_calls(seccomp: ctypes.CDLL) -> None:
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(SECCOMP_EPERM)))
    if not context.value:
        raise UnavailableError("libseccomp cannot be used")
    rules: list[tuple[str, int | None]] = [(name, None) for name in ALLOWED_CALLS]
    rules += [(name, value) for name, values in ALLOWED_ARGUMENTS.items() for value in values]
    for name, value in rules:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number < 0:  # this kind of processor has no such call
            continue
        comparisons = (_Comparison * 1)(_Comparison(1, SECCOMP_EQUAL, value or 0, 0))
        count = ctypes.c_uint(0 if value is None else 1)
        if seccomp.seccomp_rule_add_array(context, ctypes.c_uint32(SECCOMP_ALLOW), number, count, comparisons):
            raise UnavailableError(f"libseccomp refused the rule for {name}")
    if seccomp.seccomp_load(context):
        raise UnavailableError("the system refused the filter of system calls")
    seccomp.seccomp_release(context)


def describe(error: BaseException) -> str:
    """What happened, and in which line of the source; nothing of this machine's folders."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == SOURCE_NAME]
    line = error.lineno if isinstance(error, SyntaxError) else frames[-1].lineno if frames else None
    try:
        text = f"{type(error).__name__}: {error}"
    except BaseException:  # noqa: BLE001  # its own __str__
        text = type(error).__name__
    return (f"line {line}: " if line else "") + text[:MAX_ERROR_CHARACTERS]


def load_grade(source: str):  # type: ignore[no-untyped-def]  # noqa: ANN201  # what the source defines
    """The function ``grade`` of a source.

    Raises:
        Exception: Anything that the source raises, or what is wrong with it.
    """
    namespace = {"__name__": "grader"}
    exec(compile(source, SOURCE_NAME, "exec"), namespace)  # noqa: S102  # that is what the process is for
    grade = namespace.get("grade")
    if not callable(grade):
        raise TypeError("the source has no function grade(sample, item)")
    return grade


def main() -> None:
    """Grade the answers of stdin."""
    results = os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)

    def reply(value: dict[str, object]) -> None:
        results.write(json.dumps(value) + "\n")
        results.flush()

    try:
        give_up_rights(int(sys.argv[1]), int(sys.argv[2]))
    except (UnavailableError, OSError, ValueError) as exc:
        reply({"unavailable": str(exc)})
        return
    lines = sys.stdin.buffer
    source = json.loads(lines.readline())
    try:
        grade = load_grade(source)
    except BaseException as exc:  # noqa: BLE001  # whatever the source raises, SystemExit too
        reply({"invalid": describe(exc)})
        return
    reply({"ready": True})
    for line in lines:
        call = json.loads(line)
        try:
            reply({"score": float(grade(call["sample"], call["item"]))})
        except BaseException as exc:  # noqa: BLE001  # the same
            reply({"error": describe(exc)})


if __name__ == "__main__":
    main()
