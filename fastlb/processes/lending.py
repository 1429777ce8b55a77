"""Which worker accepts from which listening socket.

Every socket has a home, the slot of the worker it was made for, or none when all workers share it (unix sockets, sockets of systemd). A
socket whose home has no ready worker is lent to a ready sibling and stays there until its home is ready again: at any time a socket has
exactly one accepting worker, or all of them. Pure bookkeeping: no socket is touched here.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """A listening socket.

    Args:
        socket: its number.
        listener: the index of its listener in the current snapshot.
        home: the slot that it was made for; None when every worker accepts from it.
    """

    socket: int
    listener: int
    home: int | None


Assignment = tuple[tuple[int, int], ...]  # socket and listener


class Lending:
    """Remembers who holds what is lent, so that a socket moves no more often than it must."""

    def __init__(self) -> None:
        self._holders: dict[int, int] = {}

    def assign(self, places: Iterable[Place], ready: Collection[int]) -> dict[int, Assignment]:
        """What each ready worker accepts from. Nobody is ready: nothing, and clients wait in the queues.

        Lent sockets are spread: each goes to the sibling that has the fewest.
        """
        places = list(places)
        assigned: dict[int, list[tuple[int, int]]] = {slot: [] for slot in sorted(ready)}
        lent: list[Place] = []
        for place in places:
            holder = self._holders.get(place.socket)
            if place.home is None:
                for sockets in assigned.values():
                    sockets.append((place.socket, place.listener))
            elif place.home in assigned:
                assigned[place.home].append((place.socket, place.listener))
                self._holders.pop(place.socket, None)
            elif holder in assigned:
                assigned[holder].append((place.socket, place.listener))
            else:
                lent.append(place)
        for place in lent if assigned else ():
            holder = min(assigned, key=lambda slot: len(assigned[slot]))
            self._holders[place.socket] = holder
            assigned[holder].append((place.socket, place.listener))
        known = {place.socket for place in places}
        self._holders = {socket: slot for socket, slot in self._holders.items() if socket in known}
        return {slot: tuple(sockets) for slot, sockets in assigned.items()}
