"""A terminal for programs under test: a pty, and what an xterm would show of what is written to it.

It knows what ncurses writes for TERM=xterm-256color, and raises at anything else."""
import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
import unicodedata

LIMIT_S = float(os.environ.get("CLI_TEST_LIMIT_S", 60))
SEQUENCE = re.compile(r"\x1b(?:\[([?>]?)([0-9;]*)([@-~])|([()][0-9A-B])|([=>78MDE])|\]([^\x07\x1b]*)(?:\x07|\x1b\\))")
PLAIN = {"bold": False, "dim": False, "reverse": False, "fg": None}


class Screen:
    """The cells: a character and its looks each. A character of two columns has '' behind it."""

    def __init__(self, rows, columns):
        self.rows, self.columns, self.row, self.column = rows, columns, 0, 0
        self.looks, self.rest = dict(PLAIN), ""
        self.top, self.bottom = 0, rows
        self.cells = [self.blank() for _ in range(rows)]
        self.decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self.wraps = False  # the last column was written: the next character goes to the next line

    def blank(self):
        return [(" ", dict(PLAIN)) for _ in range(self.columns)]

    def resize(self, rows, columns):
        old, self.rows, self.columns = self.cells, rows, columns
        self.top, self.bottom = 0, rows
        self.cells = [self.blank() for _ in range(rows)]
        for to, line in zip(self.cells, old):
            to[: min(columns, len(line))] = line[:columns]
        self.row, self.column = min(self.row, rows - 1), min(self.column, columns - 1)

    def lines(self):
        return ["".join(cell[0] for cell in line).rstrip() for line in self.cells]

    def text(self):
        return "\n".join(self.lines())

    def feed(self, data):
        text, self.rest = self.rest + self.decode(data), ""
        at = 0
        while at < len(text):
            if text[at] != "\x1b":
                self.put(text[at])
                at += 1
                continue
            found = SEQUENCE.match(text, at)
            if found is None:
                assert len(text) - at < 200, f"unknown sequence {text[at:at + 20]!r}"
                self.rest = text[at:]
                return
            self.obey(found)
            at = found.end()

    def put(self, c):
        if c == "\r":
            self.column = 0
        elif c == "\n":
            self.line_feed()
        elif c == "\b":
            self.column = max(0, self.column - 1)
        elif c == "\t":
            self.column = min(self.columns - 1, self.column // 8 * 8 + 8)
        elif c >= " ":
            self.write(c)
            return
        else:
            assert c in "\x07\x0e\x0f", f"control character {c!r}"
        self.wraps = False

    def write(self, c):
        if unicodedata.combining(c):
            return
        width = 2 if unicodedata.east_asian_width(c) in "WF" else 1
        if self.wraps:
            self.column, self.wraps = 0, False
            self.line_feed()
        self.last = c
        for i, part in enumerate([c, ""][:width]):
            if self.column + i < self.columns:
                self.cells[self.row][self.column + i] = (part, dict(self.looks))
        self.column += width
        if self.column >= self.columns:
            self.column, self.wraps = self.columns - 1, True

    def line_feed(self):
        if self.row == self.bottom - 1:
            self.scroll(1, self.top)
        else:
            self.row = min(self.rows - 1, self.row + 1)

    def scroll(self, count, top):
        for _ in range(min(abs(count), self.bottom - top)):
            if count > 0:
                self.cells.insert(self.bottom, self.blank())
                del self.cells[top]
            else:
                del self.cells[self.bottom - 1]
                self.cells.insert(top, self.blank())

    def erase(self, row, start, end):
        for column in range(start, min(end, self.columns)):
            self.cells[row][column] = (" ", dict(PLAIN))

    def obey(self, found):
        private, numbers, letter, charset, single, title = found.groups()
        if charset or title is not None:
            return
        if single:
            if single == "M" and self.row == self.top:
                self.scroll(-1, self.top)
            elif single == "M":
                self.row -= 1
            return
        n = [int(number or 0) for number in numbers.split(";")] if numbers else []
        if private or letter in "hlt":
            if private and letter == "h" and 1049 in n:
                self.cells = [self.blank() for _ in range(self.rows)]
            return
        self.wraps = False
        self.control(letter, n, n[0] if n and n[0] else 1)

    def control(self, letter, n, count):
        line = self.cells[self.row]
        if letter == "m":
            self.look(n or [0])
        elif letter in "Hf":
            self.row = min(self.rows, (n + [1, 1])[0] or 1) - 1
            self.column = min(self.columns, (n + [1, 1])[1] or 1) - 1 if len(n) > 1 else 0
        elif letter == "d":
            self.row = min(self.rows, count) - 1
        elif letter in "G`":
            self.column = min(self.columns, count) - 1
        elif letter == "A":
            self.row = max(0, self.row - count)
        elif letter == "B":
            self.row = min(self.rows - 1, self.row + count)
        elif letter == "C":
            self.column = min(self.columns - 1, self.column + count)
        elif letter == "D":
            self.column = max(0, self.column - count)
        elif letter == "K":
            what = n[0] if n else 0
            self.erase(self.row, 0 if what else self.column, self.column + 1 if what == 1 else self.columns)
        elif letter == "J":
            what = n[0] if n else 0
            for row in range(0 if what else self.row, self.rows):
                self.erase(row, self.column if row == self.row and not what else 0, self.columns)
        elif letter == "X":
            self.erase(self.row, self.column, self.column + count)
        elif letter == "P":
            del line[self.column:self.column + count]
            line += self.blank()[:self.columns - len(line)]
        elif letter == "@":
            line[self.column:self.column] = self.blank()[:count]
            del line[self.columns:]
        elif letter in "LM":
            self.scroll(count if letter == "M" else -count, self.row)
        elif letter in "ST":
            self.scroll(count if letter == "S" else -count, self.top)
        elif letter == "r":
            self.top, self.bottom = (n + [1, self.rows])[0] - 1, min(self.rows, (n + [0, 0])[1] or self.rows)
            self.row = self.column = 0
        elif letter == "b":
            for _ in range(count):
                self.write(self.last)
        else:
            raise AssertionError(f"unknown control {letter} {n}")

    def look(self, numbers):
        for number in numbers:
            if number == 0:
                self.looks = dict(PLAIN)
            elif number in (1, 2, 7):
                self.looks[{1: "bold", 2: "dim", 7: "reverse"}[number]] = True
            elif number == 22:
                self.looks["bold"] = self.looks["dim"] = False
            elif number == 27:
                self.looks["reverse"] = False
            elif 30 <= number <= 37:
                self.looks["fg"] = number - 30
            elif number == 39:
                self.looks["fg"] = None


class Terminal:
    """A program in a terminal of its own: its controlling one."""

    def __init__(self, words, rows=24, columns=80, **environment):
        self.screen = Screen(rows, columns)
        self.master, slave = pty.openpty()
        self.set_size(rows, columns)
        self.process = subprocess.Popen(
            [str(word) for word in words], stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env={**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "COLORTERM": "", **environment})
        os.close(slave)
        self.output = b""

    def set_size(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, rows, columns):
        self.screen.resize(rows, columns)
        self.set_size(rows, columns)

    def send(self, keys):
        os.write(self.master, keys.encode())

    def read(self, seconds):
        """What comes within that time is shown. False: nothing will come any more."""
        if not select.select([self.master], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.master, 65536)
        except OSError:  # EIO: nobody has it open
            return False
        self.output += data
        self.screen.feed(data)
        return bool(data)

    def wait_for(self, condition, what=None):
        """A text on the screen, or a function of the screen's lines."""
        if isinstance(condition, str):
            what = repr(condition)
        deadline = time.monotonic() + LIMIT_S
        there = True
        while not (condition in self.screen.text() if isinstance(condition, str) else condition(self.screen.lines())):
            assert there and time.monotonic() < deadline, f"waited in vain for {what}:\n{self.screen.text()}"
            there = self.read(0.05)

    def end(self):
        """Waits until the program has ended: its exit code, negative for a signal."""
        deadline = time.monotonic() + LIMIT_S
        while self.read(0.05):
            if self.process.poll() is not None and not select.select([self.master], [], [], 0)[0]:
                break
            if time.monotonic() > deadline:
                self.process.kill()
                raise AssertionError(f"still running:\n{self.screen.text()}")
        code = self.process.wait(LIMIT_S)
        os.close(self.master)
        return code

    def kill(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
