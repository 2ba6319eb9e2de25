"""Live alerts: recorded once for the whole fleet, fanned out to the streams of this worker, replayed after a break.

intake      what services publish becomes an alert, or is malformed
recorder    sees to it that each alert is recorded, by one worker as a rule
fanout      hands recorded alerts to the open streams, and reads again what may have been missed
client      one open stream: what it wants, its queue, its end
service     all of it together, with its numbers
"""
