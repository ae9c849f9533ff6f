"""Runs a connection through the service while readers look at it.  readers.py BINARY FOLDER READERS

Each reader requests a page or a part of the API twice a second.
"""

import asyncio
import json
import os
import sys

binary, folder, readers = sys.argv[1], sys.argv[2], int(sys.argv[3])
PATHS = ["/", "/connections/shop", "/runs", "/plugins", "/api/v1/runs", "/api/v1/status", "/metrics", "/api/v1/connections"]


async def ask(address, method, path, body=b""):
    reader, writer = await asyncio.open_connection(*address)
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    answer = await reader.read()
    while more := await reader.read():
        answer += more
    writer.close()
    return int(answer.split(b" ", 2)[1]), answer.partition(b"\r\n\r\n")[2]


async def main():
    service = await asyncio.create_subprocess_exec(
        binary, "-C", folder, "serve", "--address", "127.0.0.1:0", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    # In production, readers run on other machines. Here, they only get the time that the service leaves.
    os.nice(19)
    line = (await service.stdout.readline()).decode().strip()
    address = ("127.0.0.1", int(line.rsplit(":", 1)[1]))
    answers = errors = 0
    ended = asyncio.Event()

    async def look(number):
        nonlocal answers, errors
        await asyncio.sleep(number / max(readers, 1) * 0.5)
        while not ended.is_set():
            try:
                status, _ = await ask(address, "GET", PATHS[number % len(PATHS)])
                answers += 1
                errors += status != 200
            except OSError:
                errors += 1
            await asyncio.sleep(0.5)

    await ask(address, "GET", "/plugins")
    looking = [asyncio.create_task(look(number)) for number in range(readers)]
    status, _ = await ask(address, "POST", "/api/v1/connections/shop/runs", b"{}")
    assert status == 202, status
    while True:
        await asyncio.sleep(0.1)
        _, runs = await ask(address, "GET", "/api/v1/runs")
        runs = json.loads(runs)
        if runs and runs[0]["status"] != "running":
            break
    ended.set()
    await asyncio.gather(*looking)
    service.terminate()
    await service.wait()
    print(json.dumps({"seconds": runs[0]["duration_ms"] / 1000, "answers": answers, "errors": errors}))


asyncio.run(main())
