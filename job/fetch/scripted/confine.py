"""Run a Python program that can read and write only a few directories, and can reach no other process.

    python -I confine.py SPEC PROGRAM ARGUMENT...

SPEC is a JSON object: `write` and `read` are lists of paths, `parent` is the caller's process id (this process ends
with it), and `abi` pretends an older kernel. The program runs in this process, once nothing of the following can be
undone any more:

- Landlock: files outside of those paths can neither be opened nor changed, whatever way leads to them;
- seccomp: no system call that Landlock does not know of reaches another process, a file's owner or mode, the kernel's
  settings, or a service on this machine by a Unix socket;
- no privileges: no capabilities, and none to be had from a program with setuid.

The network stays open. It uses the standard library only: it runs in an environment in which the job is not installed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import resource
import signal
import struct
import sys
from pathlib import Path
from typing import Any

#: Exit code when the kernel refuses one of these.
NOT_CONFINED = 97
#: The network needs these of /etc; other files there may hold passwords.
SYSTEM = (
    *("/usr/lib", "/usr/lib64", "/usr/bin", "/usr/share", "/usr/local/lib", "/usr/local/share/ca-certificates"),
    *("/lib", "/lib64", "/bin", "/nix/store", "/etc/ld.so.cache", "/etc/ssl/certs", "/etc/ssl/cert.pem"),
    *("/etc/ssl/openssl.cnf", "/etc/pki/tls/certs", "/etc/pki/tls/cert.pem", "/etc/pki/ca-trust/extracted"),
    *("/etc/ca-certificates", "/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf"),
    *("/etc/gai.conf", "/etc/services", "/etc/protocols", "/etc/localtime", "/etc/mime.types", "/etc/passwd"),
    *("/etc/group", "/dev/urandom", "/dev/random", "/dev/zero"),
)

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long

# --- Landlock (linux/landlock.h): the numbers of its system calls are the same on all architectures.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _MAKE_CHAR, _MAKE_SOCK, _MAKE_BLOCK = (
    1 << n for n in (0, 1, 2, 3, 6, 9, 11)
)
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_BIND_TCP = 1
_SOCKETS_AND_SIGNALS = 3

# --- seccomp (linux/seccomp.h, linux/bpf_common.h)
_KILL, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN, _AND = 0x20, 0x15, 0x35, 0x45, 0x06, 0x54
_EPERM, _ENOSYS, _EAFNOSUPPORT = 1, 38, 97
#: Machine -> its name for the kernel, and the column of its numbers below.
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
#: System calls that fail with EPERM: other processes, the kernel's settings, memory shared by name.
_DENIED = """
ptrace:101,117 process_vm_readv:310,270 process_vm_writev:311,271 pidfd_getfd:438,438 pidfd_send_signal:424,424
kcmp:312,272 process_madvise:440,440 process_mrelease:448,448 move_pages:279,239 migrate_pages:256,238
setpriority:141,140 ioprio_set:251,30 setsid:112,157 setpgid:109,154 unshare:272,97 setns:308,268 mount:165,40
umount2:166,39 pivot_root:155,41 chroot:161,51 open_tree:428,428 open_tree_attr:467,467 move_mount:429,429
fsopen:430,430 fsconfig:431,431 fsmount:432,432 fspick:433,433 mount_setattr:442,442 swapon:167,224 swapoff:168,225
reboot:169,142 kexec_load:246,104 kexec_file_load:320,294 init_module:175,105 finit_module:313,273 delete_module:176,106
perf_event_open:298,241 userfaultfd:323,282 keyctl:250,219 add_key:248,217 request_key:249,218 quotactl:179,60
quotactl_fd:443,443 acct:163,89 settimeofday:164,170 clock_settime:227,112 adjtimex:159,171 clock_adjtime:305,266
bpf:321,280 sethostname:170,161 setdomainname:171,162 syslog:103,116 open_by_handle_at:304,265 vhangup:153,58
iopl:172, ioperm:173, fanotify_init:300,262 shmget:29,194 shmat:30,196 shmctl:31,195 msgget:68,186 msgsnd:69,189
msgrcv:70,188 msgctl:71,187 semget:64,190 semop:65,193 semctl:66,191 semtimedop:220,192 mq_open:240,180
mq_unlink:241,181
"""
#: These are said not to exist: what they do cannot be looked into, and libraries know other ways.
_ABSENT = "io_uring_setup:425,425 io_uring_enter:426,426 io_uring_register:427,427 clone3:435,435"
#: These succeed and do nothing, as copying files sets times and modes, and Landlock does not restrict that.
_IDLE = """
chmod:90, fchmod:91,52 fchmodat:268,53 fchmodat2:452,452 chown:92, fchown:93,55 lchown:94, fchownat:260,54 utime:132,
utimes:235, utimensat:280,88 futimesat:261, setxattr:188,5 lsetxattr:189,6 fsetxattr:190,7 removexattr:197,14
lremovexattr:198,15 fremovexattr:199,16 setxattrat:463,463 removexattrat:466,466 file_setattr:469,469
"""
#: Only for the process itself.
_OWN = """
prlimit64:302,261 sched_setaffinity:203,122 sched_setparam:142,118 sched_setscheduler:144,119 sched_setattr:314,274
"""
_CLONE, _SOCKET, _SOCKETPAIR = "clone:56,220", "socket:41,198", "socketpair:53,199"
#: New namespaces: of mounts, groups, names, users, processes, networks.
_NEW_NAMESPACES = 0x7E020000
#: Before ABI 3 Landlock does not know of truncating, before 6 not of signals.
_TRUNCATING = "truncate:76,45 openat2:437,437"
_OPENING = (("open:2,", 1), ("openat:257,56", 2))
_SIGNALS = "kill:62,129 tgkill:234,131 rt_sigqueueinfo:129,138 rt_tgsigqueueinfo:297,240"
_FCNTL, _IOCTL, _TKILL = "fcntl:72,25", "ioctl:16,29", "tkill:200,130"
_O_TRUNC, _O_ACCMODE = 0o1000, 0o3


def landlock_abi() -> int:
    """The version of Landlock that the kernel offers; 0 where it offers none."""
    if sys.platform != "linux" or platform.machine() not in _MACHINES:
        return 0
    return max(0, _syscall(_CREATE_RULESET, None, 0, 1))


def confine(write: list[str], read: list[str], abi: int) -> None:
    """Take from this process, and from all that it starts, what the module's first lines name. For ever.

    Raises:
        OSError: the kernel refuses.
    """
    _drop_privileges()
    _restrict_files(write, read, abi)
    _restrict_calls(abi)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _syscall(*values: int | bytes | None) -> int:
    return int(_LIBC.syscall(*(ctypes.c_long(value) if isinstance(value, int) else value for value in values)))


def _prctl(option: int, *values: int) -> int:
    return int(_LIBC.prctl(option, *(ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4])))


def _drop_privileges() -> None:
    _checked(_prctl(38, 1), "no new privileges")
    for capability in range(64):
        _prctl(24, capability)  # from the bounding set, where that is allowed
    _prctl(47, 4)  # the ambient ones
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    _checked(_LIBC.capset(header, (ctypes.c_uint32 * 6)()), "no capabilities")


def _restrict_files(write: list[str], read: list[str], abi: int) -> None:
    known = (1 << 13) - 1
    for since, right in ((2, 1 << 13), (3, _TRUNCATE), (5, _IOCTL_DEV)):
        known |= right if abi >= since else 0
    attributes = struct.pack("QQQ", known, _BIND_TCP, _SOCKETS_AND_SIGNALS)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    ruleset = _checked(_syscall(_CREATE_RULESET, attributes, len(attributes), 0), "Landlock")
    writing = known & ~(_EXECUTE | _MAKE_CHAR | _MAKE_BLOCK | _MAKE_SOCK)
    reading = _EXECUTE | _READ_FILE | _READ_DIR
    for path in write:
        _allow(ruleset, path, writing)
    for path in (*read, *SYSTEM):
        if Path(path).exists():
            _allow(ruleset, path, reading)
    _allow(ruleset, "/dev/null", known & (_READ_FILE | _WRITE_FILE | _TRUNCATE))
    _checked(_syscall(_RESTRICT_SELF, ruleset, 0), "Landlock")
    os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    if not Path(path).is_dir():
        rights &= _OF_FILES
    rule = struct.pack("=Qi", rights, descriptor)
    _checked(_syscall(_ADD_RULE, ruleset, 1, rule, 0), f"Landlock for {path}")
    os.close(descriptor)


def _restrict_calls(abi: int) -> None:
    """Install the filter of system calls."""
    code = _program(abi)
    program = b"".join(struct.pack("HBBI", *one) for one in code)
    kept = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))

    given = Program(len(code), ctypes.cast(kept, ctypes.c_void_p))
    _checked(int(_LIBC.prctl(22, ctypes.c_ulong(2), ctypes.byref(given), 0, 0)), "seccomp")


def _program(abi: int) -> list[tuple[int, int, int, int]]:
    """The filter: (operation, steps if true, steps if false, operand) each."""
    name, column = _MACHINES[platform.machine()]
    code = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, name), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    if column == 0:  # the other set of numbers that x86_64 has
        code += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _ERRNO | _ENOSYS)]

    def on(calls: str, body: list[tuple[int, int, int, int]]) -> None:
        for call in calls.split():
            number = call.split(":")[1].split(",")[column]
            if number:
                code.extend([(_EQUAL, 0, len(body), int(number)), *body])

    def argument(index: int) -> tuple[int, int, int, int]:
        return (_LOAD, 0, 0, 16 + 8 * index)  # the lower half, on a little-endian machine

    def fails(error: int) -> tuple[int, int, int, int]:
        return (_RETURN, 0, 0, _ERRNO | error)

    allowed = (_RETURN, 0, 0, _ALLOW)
    on(_DENIED, [fails(_EPERM)])
    on(_ABSENT, [fails(_ENOSYS)])
    on(_IDLE, [fails(0)])
    for_itself = [argument(0), (_EQUAL, 2, 0, 0), (_EQUAL, 1, 0, os.getpid()), fails(_EPERM), allowed]
    on(_OWN, for_itself)
    on(_CLONE, [argument(0), (_ANY_BIT, 0, 1, _NEW_NAMESPACES), fails(_EPERM), allowed])
    on(_SOCKET, [argument(0), (_EQUAL, 2, 0, 2), (_EQUAL, 1, 0, 10), fails(_EAFNOSUPPORT), allowed])  # IPv4 and IPv6
    on(_SOCKETPAIR, [argument(1), (_AND, 0, 0, 15), (_EQUAL, 1, 0, 1), fails(_EPERM), allowed])
    # Who is told of what happens to a file or a socket, by a signal: F_SETOWN, F_SETOWN_EX, FIOSETOWN, SIOCSPGRP.
    on(_FCNTL, [argument(1), (_EQUAL, 1, 0, 8), (_EQUAL, 0, 1, 15), fails(_EPERM), allowed])
    on(_IOCTL, [argument(1), (_EQUAL, 1, 0, 0x8901), (_EQUAL, 0, 1, 0x8902), fails(_EPERM), allowed])
    if abi < 3:
        on(_TRUNCATING, [fails(_ENOSYS)])
        for call, flags in _OPENING:
            mode = [argument(flags), (_AND, 0, 0, _O_TRUNC | _O_ACCMODE)]
            neither = [(_EQUAL, 1, 0, _O_TRUNC), (_EQUAL, 0, 1, _O_TRUNC | _O_ACCMODE)]  # of the two ways to write
            on(call, [*mode, *neither, fails(_EPERM), allowed])
    if abi < 6:
        on(_SIGNALS, for_itself)
        on(_TKILL, [fails(_EPERM)])
    return [*code, allowed]


def _settle(parent: int) -> None:
    """End with the caller, leave no core, and be the first to go when memory runs out."""
    _prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        raise OSError("the caller has ended")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    few = 4096 if most == resource.RLIM_INFINITY else min(4096, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, few))
    with contextlib.suppress(OSError):  # a limit of memory is up to the container then
        Path("/proc/self/oom_score_adj").write_text("1000")


def main() -> None:
    """Confine this process and run the program in it."""
    spec: dict[str, Any] = json.loads(sys.argv[1])
    path = sys.argv[2]
    try:
        program = compile(Path(path).read_bytes(), path, "exec")
        abi = min(landlock_abi(), spec.get("abi", 99))
        if abi < 1:
            raise OSError("this kernel has no Landlock")
        _settle(spec["parent"])
        # Of the interpreter, which may lie in somebody's home, only what it is made of.
        parts = [str(Path(root, part)) for root in (sys.base_prefix, sys.prefix) for part in ("lib", "bin", "lib64")]
        confine(spec["write"], [*spec["read"], *parts, str(Path(sys.prefix, "pyvenv.cfg"))], abi)
    except OSError as error:
        print(f"not confined: {error}", file=sys.stderr)
        sys.exit(NOT_CONFINED)
    sys.argv = sys.argv[2:]
    exec(program, {"__name__": "__main__", "__file__": path, "__builtins__": __builtins__})


if __name__ == "__main__":
    main()
