"""The stub platform: the 19 services behind the gateway, with believable bakery data, in one process.

It stands in for the real ones in `gateway demo`, in tests and on a developer's laptop: `python -m demo.platform`.
Each service has a loopback port of its own, keeps what it is sent in memory, trusts the identity headers that the
gateway injects, and offers the helpers of `demo.platform.tools` (echo, slow, status, bytes, stream).

In a test: `running_platform()` of `demo.platform.platform`, or `platform_process()` of `demo.platform.process`.
"""
