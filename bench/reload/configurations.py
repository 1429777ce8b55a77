"""Two configurations of a size that differ in a route and a backend, so that each reload is a change."""

POOLS = 50
HOSTS = 100


def write_configuration(number: int, *, routes: int, regexes: int, backends: int) -> str:
    """TOML with this many of each.

    Args:
        number: which of the two: 0 or 1.
        regexes: how many of the routes have a regular expression.
    """
    parts = ['[global]\nuser = "root"\n[[listeners]]\nname = "web"\nbind = "127.0.0.1:0"\n']
    per_pool = -(-backends // POOLS)
    for pool in range(POOLS):
        addresses = [f'"10.{pool}.{index >> 8}.{index & 255}:8080"' for index in range(1, per_pool + 1)]
        if pool == 0:
            addresses[0] = f'"10.255.0.{number + 1}:8080"'
        parts.append(f"[pools.p{pool}]\nbackends = [{', '.join(addresses)}]\n")
    for route in range(routes):
        path = rf"~^/users{route}/[0-9]+/orders/[a-z-]+$" if route < regexes else f"/app{route}/"
        parts.append(f'[[routes]]\nhost = "h{route % HOSTS}.example.com"\npath = \'{path}\'\npool = "p{(route + number) % POOLS}"\n')
    return "\n".join(parts)
