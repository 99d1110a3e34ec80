"""A client over loopback, and the server that it asks, in the same event loop."""

import asyncio

server = None


async def answer(reader, writer):
    path = (await reader.readline()).split()[1]
    await asyncio.sleep(0.1)  # it takes its time
    writer.write(b"HTTP/1.0 404 Not Found\r\n\r\n" if path == b"/missing" else b"HTTP/1.0 200 OK\r\n\r\n")
    writer.close()


async def fetch(path):
    global server
    if server is None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1000)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    status = (await reader.readline()).split()[1]
    writer.close()
    return int(status)
