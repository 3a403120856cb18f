"""Where a process listens, and by what addresses others may reach it."""

from __future__ import annotations

import socket


def listen_anywhere() -> socket.socket:
  """A free port on all interfaces, of both families where there are both."""
  if socket.has_dualstack_ipv6():
    try:
      return socket.create_server(
        ('::', 0), family=socket.AF_INET6, backlog=512, dualstack_ipv6=True
      )
    except OSError:
      pass  # IPv6 is compiled in and switched off.
  return socket.create_server(('0.0.0.0', 0), backlog=512)


def own_addresses() -> list[str]:
  """What other hosts may reach this one by, the likeliest first."""
  host = socket.gethostname()
  found = [host, socket.getfqdn()]
  try:
    found += [str(info[4][0]) for info in socket.getaddrinfo(host, None)]
  except OSError:
    pass  # The name means nothing here, as in some containers.
  for family, target in (
    (socket.AF_INET, '192.0.2.1'),
    (socket.AF_INET6, '2001:db8::1'),
  ):
    try:
      with socket.socket(family, socket.SOCK_DGRAM) as probe:
        # Sends nothing: only asks which interface leads outside (the target is
        # an address for documentation, RFC 5737 and 3849).
        probe.connect((target, 9))
        found.append(probe.getsockname()[0])
    except OSError:
      pass  # No such route.
  # Last: right only where all processes share a host.
  loopback = '127.0.0.1'
  return [*dict.fromkeys(x for x in found if x != loopback), loopback]
