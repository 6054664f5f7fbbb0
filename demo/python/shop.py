"""A service in Python whose profile is known beforehand: three kinds of work that take 50, 30 and 20 % of its CPU time.

Half is spent in Python, three tenths where C code of the interpreter calls back into Python, and a fifth in a native library
that lets other threads run. A kind of work that took too much in one turn gets as much less in the next, so that the shares
hold whatever the machine does. Needs nothing but the standard library. Runs until it is stopped.
"""

import asyncio
import time
import zlib

PAGE = [f"<li class='item'>tea & biscuits {number}</li>" for number in range(600)]
REPLY = "\n".join(PAGE).encode()


class Share:
    """A kind of work and its part of each turn, in seconds of this thread's CPU time."""

    def __init__(self, work, part):
        self.work = work
        self.part = part
        self.due = 0.0

    def serve(self):
        start = time.thread_time()
        end = start + self.due + self.part
        while time.thread_time() < end:
            self.work()
        self.due = end - time.thread_time()


def sum_prices():
    total = 0.0
    for item in range(5000):
        total = (total + item) ** 0.5 * 1.19
    return total


def length_of_text(line):
    return sum(character.isalpha() for character in line)


def sort_page():
    sorted(PAGE, key=length_of_text)


def deflate():
    zlib.compress(REPLY, 6)


basket = Share(sum_prices, 0.025)
page = Share(sort_page, 0.015)
reply = Share(deflate, 0.010)


async def price_basket():
    basket.serve()
    await asyncio.sleep(0)


async def render_page():
    page.serve()
    await asyncio.sleep(0)


async def compress_reply():
    reply.serve()
    await asyncio.sleep(0)


async def serve_request():
    await price_basket()
    await render_page()
    await compress_reply()


async def main():
    while True:
        await serve_request()


if __name__ == "__main__":
    asyncio.run(main())
