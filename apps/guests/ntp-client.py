"""Asks an NTP server on 127.0.0.1 for the time and says what it answered."""

import socket
import struct
import sys
import time

SINCE_1900 = 2208988800

question = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
question.connect(("127.0.0.1", int(sys.argv[1])))
question.settimeout(1)
for _ in range(20):
    question.send(b"\x23" + bytes(39) + struct.pack("!II", int(time.time()) + SINCE_1900, 0))
    try:
        answer = question.recv(512)
    except (TimeoutError, ConnectionRefusedError):
        continue
    # A server that has just started may not have chosen its own clock yet: stratum 0.
    if answer[1]:
        break
    time.sleep(0.5)
seconds = struct.unpack("!I", answer[40:44])[0] - SINCE_1900
print(f"stratum {answer[1]}, {'within a second' if abs(seconds - time.time()) <= 1.5 else 'wrong time'}")
