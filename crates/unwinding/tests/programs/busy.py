"""A program to stop anywhere: the interpreter calls C code that calls the interpreter, in many ways. Runs until it is
killed."""
import functools
import json
import re
import zlib

pattern = re.compile(r"(\w+)-(\d+)")


class Number:
    def __init__(self, value):
        self.value = value

    def __lt__(self, other):
        return self.value < other.value

    def __hash__(self):
        return hash(self.value) ^ 5

    def __eq__(self, other):
        return self.value == other.value


def deep(depth, value):
    if depth == 0:
        return work(value)
    if depth % 3 == 0:
        return functools.reduce(lambda _, step: deep(depth - 1, value + step), [1], 0)
    if depth % 3 == 1:
        return max(map(lambda step: deep(depth - 1, step), [value]))
    return sorted([value], key=lambda step: deep(depth - 1, step))[0]


def work(value):
    numbers = sorted(Number(value * index % 97) for index in range(40))
    known = {number: index for index, number in enumerate(numbers)}
    text = json.dumps({"values": [number.value for number in known], "text": "abc-12 " * 20})
    found = pattern.sub(lambda match: match.group(2) + str(value), json.loads(text)["text"])
    return len(zlib.compress(found.encode())) + value % 3


print("ready", flush=True)
round_number = 0
while True:
    deep(round_number % 40, round_number)
    round_number += 1
