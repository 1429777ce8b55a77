"""Which account the unprivileged processes run under, and giving up root for it.

The supervisor chooses (accounts are looked up once, before anything is forked); the zygote drops, for good, and everything forked from it
has never been anything else. Nothing here is ever undone.

What the kernel does by itself when a process leaves root is kept: such a process is not "dumpable" (PR_SET_DUMPABLE, prctl(2)). Other
processes of its account cannot trace it or read its memory, where keys and requests are, and a crash leaves no core file. That matters most
for `nobody`, which is often shared. root still can (`gdb -p`, `perf`). Where fastlb was not started as root nothing changes in this.
"""

import grp
import os
import pwd
from collections.abc import Callable
from dataclasses import dataclass

from fastlb import FastlbError
from fastlb.processes import _system

DEFAULT_USER = "nobody"  # as nginx
# What the unprivileged processes create is for their own account alone.
UMASK = 0o077


class PrivilegeError(FastlbError):
    """The account to run under does not exist, or the system does not let us change to it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """An account.

    Args:
        groups: all of them, `gid` among them.
        name: of the user, for messages.
    """

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str


def choose_identity(user: str, group: str) -> tuple[Identity | None, list[str]]:
    """The account for workers and controller, and warnings to be said at the start.

    Args:
        user: `global.user`: a name or a number; "" for `nobody` if this is root, otherwise for no change.
        group: `global.group`: a name or a number; "" for the user's primary group.

    Returns:
        None for "stay what you are", which is all that anybody but root can do.

    Raises:
        PrivilegeError: there is no such account.
    """
    if os.geteuid() != 0:
        return None, _warn_unprivileged(user, group)
    identity = _look_up(user or DEFAULT_USER, group, asked_for=bool(user))
    if identity.uid == 0:
        return identity, [
            'workers run as root (user = "root"): whoever finds a hole in one has the machine; '
            'give them an account of their own, such as user = "www-data"'
        ]
    return identity, []


def drop(identity: Identity | None) -> None:
    """Becomes this account for good. Call it in a process with one thread, before anything from the network is read.

    Groups, user and capabilities are given up in all their forms (real, effective, saved; ambient, inheritable, bounding), and it is tried
    that they cannot be had back. With None, or for root itself, the account stays; capabilities go unless it is root, which was asked for.

    Raises:
        PrivilegeError: the system does not allow it, or did not do what it said.
    """
    os.umask(UMASK)
    try:
        if identity is not None and identity.uid != 0:
            _system.drop_bounding_capabilities()  # while that is allowed; without exec there is no way to them in any case
            _change_account(identity)
        elif identity is not None and identity.gid != os.getegid():
            os.setgroups(identity.groups)
            os.setresgid(identity.gid, identity.gid, identity.gid)
        if os.geteuid() != 0:
            _system.clear_capabilities()
        _system.set_no_new_privileges()
    except OSError as error:
        name = identity.name if identity is not None else "an account without capabilities"
        what = (error.strerror or str(error)).lower()
        raise PrivilegeError(
            f"cannot become {name}: {what}; root needs CAP_SETUID and CAP_SETGID for it, and in a container the account has to be mapped "
            f'there; or stay what you are: --user root (user = "root" in [global])'
        ) from error
    if identity is not None and identity.uid != 0:
        _check_dropped(identity)


def _change_account(identity: Identity) -> None:
    """Groups first: without root they could not be changed any more."""
    os.setgroups(identity.groups)
    os.setresgid(identity.gid, identity.gid, identity.gid)
    os.setresuid(identity.uid, identity.uid, identity.uid)


def _check_dropped(identity: Identity) -> None:
    """Tries whether root can be had back."""
    have = (os.getresuid(), os.getresgid(), set(os.getgroups()))
    if have != ((identity.uid,) * 3, (identity.gid,) * 3, set(identity.groups)):
        raise PrivilegeError(f"the system did not change to {identity.name}: it is {have} now")
    attempts: list[Callable[[], None]] = [lambda: os.seteuid(0), lambda: os.setuid(0), lambda: os.setgroups([*identity.groups, 0])]
    for regain in attempts:
        try:
            regain()
        except OSError:  # EPERM; or EINVAL in a user namespace that has no root
            continue
        raise PrivilegeError(f"root could be had back after the change to {identity.name}")


def _warn_unprivileged(user: str, group: str) -> list[str]:
    """What cannot be had because this is not root, where it differs from what is had already. nginx warns of it and goes on, too."""
    me = _own_name()
    ignored = []
    if user and user not in (me, str(os.geteuid())):
        ignored.append(f'user = "{user}"')
    if group and not _is_own_group(group):
        ignored.append(f'group = "{group}"')
    return [f"{' and '.join(ignored)} is ignored: only root can change accounts, and this is {me}"] if ignored else []


def _own_name() -> str:
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # as in containers that are started with a number
        return str(uid)


def _is_own_group(group: str) -> bool:
    try:
        return _look_up_group(group) == os.getegid()
    except PrivilegeError:
        return False


def _look_up(user: str, group: str, asked_for: bool) -> Identity:
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        try:
            account = pwd.getpwuid(int(user))
        except (KeyError, ValueError, OverflowError):
            return _make_numeric(user, group, asked_for)
    gid = _look_up_group(group) if group else account.pw_gid
    return Identity(account.pw_uid, gid, tuple(os.getgrouplist(account.pw_name, gid)), account.pw_name)


def _make_numeric(user: str, group: str, asked_for: bool) -> Identity:
    """A number that no account has, which is usual in containers; it brings no group along."""
    if not user.isdecimal() or not 0 <= int(user) < (1 << 32) - 1:
        right = "create it (`useradd --system`) or name another" if asked_for else "name the account to run under"
        raise PrivilegeError(f'there is no user "{user}" on this system; {right}: --user NAME, or user = "NAME" in [global]')
    if not group:
        raise PrivilegeError(
            f"no account has the number {user}, so it has no group either: name one, --user {user}:GROUP or group in [global]"
        )
    gid = _look_up_group(group)
    return Identity(int(user), gid, (gid,), user)


def _look_up_group(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        if group.isdecimal() and int(group) < (1 << 32) - 1:
            return int(group)
    raise PrivilegeError(
        f'there is no group "{group}" on this system; create it (`groupadd --system`) or name another: group = "NAME" in [global]'
    )
