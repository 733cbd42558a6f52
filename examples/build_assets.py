"""Make the sounds and pictures of examples/app from nothing but arithmetic and a fixed seed.

    python3 examples/build_assets.py

The results are committed, so nobody has to run this. Every sound is a loop: filters run around the end, modulation has
whole cycles, and what rings past the end comes back in at the beginning.
"""

from __future__ import annotations

import array
import math
import struct
import wave
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

APP = Path(__file__).resolve().parent / "app"
RATE = 16_000
LENGTH = RATE * 9 // 2
Samples = list[float]
Colour = tuple[float, float, float]


# --- sound ---------------------------------------------------------------------------------------------------------


def noise(rng: Random) -> Samples:
    return [rng.uniform(-1, 1) for _ in range(LENGTH)]


def lowpass(samples: Samples, hertz: float) -> Samples:
    """One pole, run around the loop once to settle and once to keep."""
    step = 1 - math.exp(-2 * math.pi * hertz / RATE)
    state, out = 0.0, samples
    for _ in range(2):
        out = []
        for sample in samples:
            state += step * (sample - state)
            out.append(state)
    return out


def highpass(samples: Samples, hertz: float) -> Samples:
    return [sample - low for sample, low in zip(samples, lowpass(samples, hertz), strict=True)]


def band(samples: Samples, low: float, high: float) -> Samples:
    return lowpass(highpass(samples, low), high)


def mixed(*parts: tuple[float, Samples]) -> Samples:
    level = [(gain, loud(part)) for gain, part in parts]
    return [sum(gain * part[i] for gain, part in level) for i in range(LENGTH)]


def loud(samples: Samples) -> Samples:
    top = max(map(abs, samples)) or 1.0
    return [sample / top for sample in samples]


def swell(samples: Samples, cycles: int, depth: float, phase: float = 0.0, power: float = 1.0) -> Samples:
    """Louder and softer, `cycles` times in the loop."""
    turn = 2 * math.pi * cycles / LENGTH
    return [
        sample * (1 - depth + depth * (0.5 - 0.5 * math.cos(turn * i + phase)) ** power)
        for i, sample in enumerate(samples)
    ]


def tone(hertz: float) -> Samples:
    """A sine whose frequency is moved to the nearest that fits the loop."""
    turn = 2 * math.pi * round(hertz * LENGTH / RATE) / LENGTH
    return [math.sin(turn * i) for i in range(LENGTH)]


def strike(into: Samples, at: float, seconds: float, gain: float, shape: Callable[[float], float]) -> None:
    """Add a sound of its own at a time in seconds; `shape` gets the seconds since then."""
    start = int(at * RATE)
    for i in range(int(seconds * RATE)):
        into[(start + i) % LENGTH] += gain * shape(i / RATE)


def ringing(hertz: float, decay: float) -> Callable[[float], float]:
    return lambda t: math.sin(2 * math.pi * hertz * t) * math.exp(-decay * t)


def drops(rng: Random, count: int, low: float, high: float, decay: float) -> Samples:
    out = [0.0] * LENGTH
    for _ in range(count):
        strike(out, rng.uniform(0, 4.5), 6 / decay, rng.random() ** 3, ringing(rng.uniform(low, high), decay))
    return out


def crackle(rng: Random, count: int, decay: float) -> Samples:
    out = [0.0] * LENGTH
    for _ in range(count):
        strike(
            out, rng.uniform(0, 4.5), 5 / decay, rng.random() ** 4, lambda t: rng.uniform(-1, 1) * math.exp(-decay * t)
        )
    return out


def bubbles(rng: Random, count: int) -> Samples:
    out = [0.0] * LENGTH
    for _ in range(count):
        base, rise = rng.uniform(350, 1500), rng.uniform(500, 3000)
        strike(
            out,
            rng.uniform(0, 4.5),
            0.12,
            rng.random() ** 2,
            lambda t, base=base, rise=rise: (
                math.sin(2 * math.pi * (base * t + rise * t * t)) * math.exp(-28 * t) * min(1, t * 300)
            ),
        )
    return out


def brown(rng: Random) -> Samples:
    return highpass(lowpass(noise(rng), 60), 12)


def pink(rng: Random) -> Samples:
    source = noise(rng)
    return mixed((0.5, lowpass(source, 80)), (0.35, lowpass(source, 500)), (0.25, lowpass(source, 3000)), (0.1, source))


def pulse(t: float, seconds: float) -> float:
    return math.sin(math.pi * t / seconds) ** 2 if 0 <= t < seconds else 0.0


def rain(rng: Random) -> Samples:
    return mixed((0.6, band(noise(rng), 900, 5200)), (0.5, drops(rng, 700, 1800, 6000, 160)))


def drizzle(rng: Random) -> Samples:
    return mixed((0.12, band(noise(rng), 2000, 6000)), (0.9, drops(rng, 160, 1500, 5000, 120)))


def downpour(rng: Random) -> Samples:
    return mixed((0.8, swell(band(noise(rng), 250, 3800), 2, 0.15)), (0.3, drops(rng, 1200, 900, 4000, 190)))


def thunder(rng: Random) -> Samples:
    far = swell(lowpass(noise(rng), 90), 1, 0.95, 0.6, 3)
    return mixed((1.0, lowpass(far, 140)), (0.12, band(noise(rng), 700, 3500)))


def wind(rng: Random) -> Samples:
    return mixed(
        (0.8, swell(band(noise(rng), 120, 500), 1, 0.7, 1.0)),
        (0.4, swell(band(noise(rng), 500, 1300), 2, 0.9, 2.2)),
    )


def gale(rng: Random) -> Samples:
    howl = swell(band(band(noise(rng), 480, 640), 500, 620), 3, 0.9, 0.4, 2)
    return mixed((0.9, swell(band(noise(rng), 60, 900), 2, 0.6)), (0.5, howl))


def waves(rng: Random) -> Samples:
    return mixed(
        (0.9, swell(band(noise(rng), 150, 1400), 1, 0.92, 0.0, 2)),
        (0.5, swell(band(noise(rng), 1500, 6500), 1, 0.97, 5.2, 4)),
    )


def brook(rng: Random) -> Samples:
    return mixed((0.9, bubbles(rng, 420)), (0.2, band(noise(rng), 500, 3000)))


def waterfall(rng: Random) -> Samples:
    return mixed((0.8, band(noise(rng), 150, 2600)), (0.2, swell(noise(rng), 3, 0.3)))


def fire(rng: Random) -> Samples:
    return mixed(
        (0.9, crackle(rng, 260, 260)), (0.3, crackle(rng, 26, 40)), (0.3, swell(lowpass(noise(rng), 130), 2, 0.5))
    )


def crickets(rng: Random) -> Samples:
    out = [0.0] * LENGTH
    for singer in range(5):
        hertz, offset = 3900 + 180 * singer + rng.uniform(0, 60), rng.uniform(0, 0.7)
        for call in range(6):
            for beat in range(4):
                strike(
                    out,
                    offset + call * 0.75 + beat * 0.045,
                    0.035,
                    1 / (1 + singer),
                    lambda t, hertz=hertz: math.sin(2 * math.pi * hertz * t) * pulse(t, 0.035),
                )
    return mixed((0.9, out), (0.05, band(noise(rng), 300, 2000)))


def frogs(rng: Random) -> Samples:
    out = [0.0] * LENGTH
    for frog in range(4):
        base = 210 + 90 * frog
        for call in range(3):
            strike(
                out,
                frog * 0.37 + call * 1.5 + rng.uniform(0, 0.1),
                0.34,
                1 / (1 + frog * 0.6),
                lambda t, base=base: (
                    sum(math.sin(2 * math.pi * base * k * t) / k for k in (1, 2, 3, 5))
                    * pulse(t, 0.34)
                    * (0.5 + 0.5 * math.sin(2 * math.pi * 38 * t))
                ),
            )
    return mixed((0.9, out), (0.06, bubbles(rng, 60)))


def songbird(rng: Random) -> Samples:
    out = [0.0] * LENGTH
    at = 0.2
    for _ in range(17):
        base, bend, length = rng.choice((2600, 2950, 3300, 3900)), rng.uniform(-5000, 7000), rng.uniform(0.07, 0.16)
        strike(
            out,
            at,
            length,
            rng.uniform(0.4, 1),
            lambda t, base=base, bend=bend, length=length: (
                math.sin(2 * math.pi * (base * t + bend * t * t)) * pulse(t, length)
            ),
        )
        at += length + rng.choice((0.03, 0.05, 0.09, 0.4))
    return mixed((0.9, out), (0.05, band(noise(rng), 200, 1200)))


def owl(rng: Random) -> Samples:
    out = [0.0] * LENGTH
    for at, length, hertz in ((0.3, 0.45, 372), (1.25, 0.16, 356), (1.5, 0.16, 360), (1.75, 0.75, 366)):
        strike(
            out,
            at,
            length,
            1,
            lambda t, length=length, hertz=hertz: (
                (math.sin(2 * math.pi * hertz * t) + 0.18 * math.sin(4 * math.pi * hertz * t)) * pulse(t, length)
            ),
        )
    return mixed((0.8, out), (0.08, swell(band(noise(rng), 200, 900), 1, 0.6)))


def chimes(rng: Random) -> Samples:
    out = [0.0] * LENGTH
    for _ in range(11):
        hertz = 523.25 * 2 ** (rng.choice((0, 2, 4, 7, 9, 12, 14)) / 12)
        at = rng.uniform(0, 4.5)
        for partial, gain, decay in ((1, 1, 1.6), (2.76, 0.5, 2.6), (5.4, 0.2, 5)):
            strike(out, at, 3.5, gain * 0.5, ringing(min(hertz * partial, 7000), decay))
    return out


def bowl(rng: Random) -> Samples:
    voices = [(1, 196.0), (0.8, 197.2), (0.5, 529.0), (0.45, 530.6), (0.25, 1010.0), (0.1, 1622.0)]
    return swell(mixed(*((gain, tone(hertz)) for gain, hertz in voices)), 1, 0.35)


def train(rng: Random) -> Samples:
    out = [0.0] * LENGTH
    for bar in range(6):
        for beat in (0.0, 0.11, 0.36, 0.47):
            strike(out, bar * 0.75 + beat, 0.14, 1, lambda t: rng.uniform(-1, 1) * math.exp(-40 * t))
    return mixed(
        (0.7, lowpass(out, 900)), (0.6, swell(lowpass(noise(rng), 110), 6, 0.3)), (0.1, band(noise(rng), 400, 2500))
    )


def fan(rng: Random) -> Samples:
    hum = mixed((1, tone(92)), (0.5, tone(184)), (0.3, tone(276)), (0.2, tone(460)))
    return mixed((0.5, hum), (0.6, swell(band(noise(rng), 150, 1500), 36, 0.15)))


def clock(rng: Random) -> Samples:
    out = [0.0] * LENGTH
    for beat in range(9):
        pitch = 2400 if beat % 2 else 2900
        strike(out, beat * 0.5, 0.08, 1, ringing(pitch, 90))
        strike(out, beat * 0.5 + 0.012, 0.12, 0.5, ringing(pitch / 2.7, 60))
    return mixed((0.9, out), (0.02, pink(rng)))


def heartbeat(rng: Random) -> Samples:
    out = [0.0] * LENGTH
    for beat in range(5):
        strike(out, beat * 0.9, 0.3, 1.0, ringing(52, 16))
        strike(out, beat * 0.9 + 0.27, 0.3, 0.7, ringing(62, 20))
    return mixed((0.95, out), (0.03, brown(rng)))


def cat(rng: Random) -> Samples:
    return swell(
        mixed((0.9, swell(lowpass(noise(rng), 240), 113, 0.9)), (0.3, swell(tone(52), 113, 0.8))), 2, 0.55, 0.5
    )


def drone(rng: Random) -> Samples:
    chord = [(1, 110.0), (0.7, 110.5), (0.7, 164.8), (0.5, 220.0), (0.4, 277.2), (0.3, 329.6), (0.15, 659.3)]
    return swell(
        mixed(*((gain, swell(tone(hertz), 1 + i % 3, 0.4, i)) for i, (gain, hertz) in enumerate(chord))), 1, 0.2
    )


def white(rng: Random) -> Samples:
    return noise(rng)


# --- pictures ------------------------------------------------------------------------------------------------------

WIDTH, HEIGHT = 400, 250


def rgb(text: str) -> Colour:
    return tuple(int(text[i : i + 2], 16) / 255 for i in (0, 2, 4))  # type: ignore[return-value]


def blend(first: Colour, second: Colour, share: float) -> Colour:
    share = min(1.0, max(0.0, share))
    return tuple(a + (b - a) * share for a, b in zip(first, second, strict=True))  # type: ignore[return-value]


class Picture:
    """A small canvas of floats; `shown` gives a PNG."""

    def __init__(self, width: int, height: int, top: Colour, bottom: Colour) -> None:
        self.width, self.height = width, height
        self.rows = [[blend(top, bottom, y / height)] * width for y in range(height)]

    def put(self, x: int, y: int, colour: Colour, share: float = 1.0) -> None:
        if 0 <= x < self.width and 0 <= y < self.height:
            self.rows[y][x] = blend(self.rows[y][x], colour, share)

    def glow(self, cx: float, cy: float, radius: float, colour: Colour, strength: float) -> None:
        reach = int(radius * 3)
        for y in range(max(0, int(cy) - reach), min(self.height, int(cy) + reach)):
            for x in range(max(0, int(cx) - reach), min(self.width, int(cx) + reach)):
                share = strength * math.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (radius * radius))
                if share > 0.004:
                    self.put(x, y, colour, share)

    def disc(self, cx: float, cy: float, radius: float, colour: Colour) -> None:
        for y in range(int(cy - radius) - 1, int(cy + radius) + 2):
            for x in range(int(cx - radius) - 1, int(cx + radius) + 2):
                self.put(x, y, colour, radius - math.hypot(x - cx, y - cy) + 0.5)

    def ridge(self, rng: Random, base: float, rough: float, colour: Colour, trees: bool) -> None:
        waves_ = [(rng.uniform(0.6, 7), rng.uniform(0, 6.3), rng.uniform(0.2, 1)) for _ in range(6)]
        for x in range(self.width):
            at = x / self.width * 2 * math.pi
            height = base + rough * sum(g * math.sin(f * at + p) / (1 + f) for f, p, g in waves_)
            if trees:
                period = 7 + (x // 23 * 7919) % 6
                height -= (1 - abs((x % period) / period * 2 - 1)) * (5 + (x // period * 104729) % 9)
            for y in range(max(0, int(height)), self.height):
                self.put(x, y, blend(colour, (0, 0, 0), (y - height) / self.height * 0.5), min(1.0, y - height + 1))

    def sea(self, rng: Random, level: float, colour: Colour, light: Colour, at: float) -> None:
        for y in range(int(level), self.height):
            depth = (y - level) / (self.height - level)
            for x in range(self.width):
                self.put(x, y, blend(colour, (0, 0, 0), depth * 0.35))
            for _ in range(int(6 + 26 * depth)):
                x, length = int(rng.gauss(at, 20 + 90 * depth)), int(3 + 16 * depth * rng.random())
                for step in range(length):
                    self.put(x + step, y, light, 0.28 * (1 - depth * 0.6))

    def streaks(self, rng: Random, count: int, colour: Colour) -> None:
        for _ in range(count):
            x, y, length = rng.randrange(self.width), rng.randrange(self.height), rng.randrange(8, 24)
            for step in range(length):
                self.put(x - step // 4, y + step, colour, 0.22)

    def stars(self, rng: Random, count: int) -> None:
        for _ in range(count):
            self.put(
                rng.randrange(self.width), int(self.height * rng.random() ** 1.6), (1, 1, 0.95), rng.uniform(0.15, 0.9)
            )

    def rings(self, cx: float, cy: float, gap: float, colour: Colour) -> None:
        for y in range(self.height):
            for x in range(self.width):
                away = math.hypot(x - cx, y - cy)
                self.put(
                    x, y, colour, 0.25 * (0.5 + 0.5 * math.cos(away / gap * 2 * math.pi)) ** 6 * math.exp(-away / 220)
                )

    def scaled(self, size: int) -> Picture:
        """A square from the middle."""
        side = min(self.width, self.height)
        left, small = (self.width - side) // 2, Picture(size, size, (0, 0, 0), (0, 0, 0))
        for y in range(size):
            for x in range(size):
                block = [
                    self.rows[(y * side + v) // size][left + (x * side + u) // size]
                    for v in range(0, side // size * size, max(1, side // 2))
                    for u in range(0, side // size * size, max(1, side // 2))
                ]
                small.rows[y][x] = tuple(sum(c[i] for c in block) / len(block) for i in range(3))  # type: ignore[assignment]
        return small

    def shown(self, rng: Random, grain: float) -> bytes:
        """PNG, RGB with 8 bits; a little grain hides the steps of the sky."""
        raw, before = bytearray(), [0] * (self.width * 3)
        for row in self.rows:
            line: list[int] = []
            for colour in row:
                speck = rng.uniform(-grain, grain)
                line += [min(255, max(0, int(channel * 255 + speck + 0.5))) for channel in colour]
            raw.append(2)
            raw += bytes((now - up) & 255 for now, up in zip(line, before, strict=True))
            before = line
        header = struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0)
        chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(raw), 9)), (b"IEND", b""))
        body = b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
        return b"\x89PNG\r\n\x1a\n" + body


# name: (sound, sky above, sky below, near ground, what else is in the picture)
SCENES: dict[str, tuple[Callable[[Random], Samples], str, str, str, str]] = {
    "rain": (rain, "55677a", "a9b8c2", "2c3a40", "hills rain"),
    "drizzle": (drizzle, "8fa3ad", "d9dfd8", "4a5f58", "hills rain trees"),
    "downpour": (downpour, "2b3542", "5f7080", "1a2328", "hills rain rain trees"),
    "thunder": (thunder, "1d1a33", "5a4a78", "12101d", "hills flash"),
    "wind": (wind, "7fb0cf", "efe6cf", "6d7f4a", "sun hills"),
    "gale": (gale, "46606f", "b7b49a", "33402f", "hills trees"),
    "waves": (waves, "3f7fae", "f4dcb4", "1d5570", "sun sea"),
    "brook": (brook, "9cc9c0", "eef3d6", "3e6b45", "sun hills trees"),
    "waterfall": (waterfall, "6fa3b8", "dcebe6", "2d5a55", "hills fall"),
    "fire": (fire, "120a12", "41201c", "0b0708", "stars hills trees embers"),
    "crickets": (crickets, "0f1b3a", "54588a", "101a1c", "stars moon hills"),
    "frogs": (frogs, "16303a", "5d8a72", "0e221f", "moon sea"),
    "songbird": (songbird, "f2b98a", "fbeccb", "55703f", "sun hills trees"),
    "owl": (owl, "0a1024", "2c3560", "070b12", "stars moon trees hills"),
    "chimes": (chimes, "c9a6c9", "fbe3d3", "7a5873", "rings sun"),
    "bowl": (bowl, "3a2616", "b3803f", "1d120a", "rings"),
    "train": (train, "263149", "c98d62", "161a22", "sun hills"),
    "fan": (fan, "b8c4cc", "eef1f2", "8a98a2", "rings"),
    "clock": (clock, "5a4632", "d9bd8f", "32261a", "rings"),
    "heartbeat": (heartbeat, "3a0f1c", "c4545c", "1d070d", "rings"),
    "cat": (cat, "3b2a3d", "e0a071", "20151f", "sun hills"),
    "drone": (drone, "0b2233", "3f8f96", "06131b", "stars rings"),
    "white": (white, "d8d8d8", "fafafa", "a8a8a8", "rings"),
    "brown": (brown, "2a1c12", "8a6a4a", "170f09", "hills"),
}


def scene(name: str, above: str, below: str, ground: str, parts: str) -> Picture:
    rng = Random("picture " + name)
    picture = Picture(WIDTH, HEIGHT, rgb(above), rgb(below))
    wanted = parts.split()
    light = rng.uniform(0.25, 0.75) * WIDTH
    if "stars" in wanted:
        picture.stars(rng, 320)
    if "sun" in wanted:
        picture.glow(light, HEIGHT * 0.52, 70, (1, 0.93, 0.75), 0.75)
        picture.disc(light, HEIGHT * 0.52, 17, (1, 0.97, 0.86))
    if "moon" in wanted:
        picture.glow(light, HEIGHT * 0.24, 44, (0.8, 0.85, 1), 0.4)
        picture.disc(light, HEIGHT * 0.24, 13, (0.95, 0.96, 1))
    if "flash" in wanted:
        x = light
        for y in range(int(HEIGHT * 0.62)):
            x += rng.uniform(-3, 3)
            picture.glow(x, y, 3, (0.93, 0.9, 1), 0.5)
    if "rings" in wanted:
        picture.rings(light, HEIGHT * 0.5, 26, rgb(ground))
    if "fall" in wanted:
        for x in range(int(light) - 26, int(light) + 26):
            for y in range(int(HEIGHT * 0.3), HEIGHT):
                picture.put(x + int(rng.uniform(-2, 2)), y, (1, 1, 1), rng.uniform(0.1, 0.7))
    if "hills" in wanted:
        far = blend(rgb(below), rgb(ground), 0.3)
        for step in range(4):
            near = blend(far, rgb(ground), step / 3)
            picture.ridge(rng, HEIGHT * (0.58 + 0.11 * step), 26 + 6 * step, near, "trees" in wanted and step > 1)
    if "sea" in wanted:
        picture.sea(rng, HEIGHT * 0.6, rgb(ground), (1, 0.97, 0.88), light)
    if "embers" in wanted:
        picture.glow(light, HEIGHT * 0.86, 62, (1, 0.5, 0.12), 0.85)
        picture.glow(light, HEIGHT * 0.88, 22, (1, 0.9, 0.55), 0.95)
        for _ in range(70):
            height = rng.random()
            picture.put(
                int(rng.gauss(light, 12 + 40 * height)), int(HEIGHT * (0.86 - 0.7 * height)), (1, 0.7, 0.3), 0.9
            )
    picture.streaks(rng, 420 * wanted.count("rain"), (0.9, 0.95, 1))
    return picture


def app_icon(size: int, margin: float) -> Picture:
    """Three hills of sound under a moon."""
    picture = Picture(size, size, rgb("16243f"), rgb("4a6a8f"))
    picture.glow(size * 0.66, size * 0.34, size * 0.2, (0.9, 0.93, 1), 0.5)
    picture.disc(size * 0.66, size * 0.34, size * (0.12 - margin / 4), (0.98, 0.98, 1))
    for step, colour in enumerate(("3b5d7c", "27435f", "142a42")):
        for x in range(size):
            at = x / size
            top = size * (0.62 + 0.1 * step - 0.09 * math.sin(2 * math.pi * (at * (1 + step) + 0.2 * step)))
            for y in range(max(0, int(top)), size):
                picture.put(x, y, rgb(colour), min(1.0, y - top + 1))
    return picture


def write_sound(path: Path, samples: Samples) -> None:
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(array.array("h", (int(sample * 29_000) for sample in loud(samples))).tobytes())


def main() -> None:
    for folder in ("sounds", "scenes", "thumbs", "icons"):
        (APP / folder).mkdir(parents=True, exist_ok=True)
    for name, (sound, *look) in SCENES.items():
        write_sound(APP / "sounds" / f"{name}.wav", sound(Random("sound " + name)))
        picture, grain = scene(name, *look), Random("grain " + name)
        (APP / "scenes" / f"{name}.png").write_bytes(picture.shown(grain, 0.8))
        (APP / "thumbs" / f"{name}.png").write_bytes(picture.scaled(96).shown(grain, 0.5))
        print(name)
    for icon, size, margin in (("icon-192", 192, 0.0), ("icon-512", 512, 0.0), ("maskable-512", 512, 0.1)):
        (APP / "icons" / f"{icon}.png").write_bytes(app_icon(size, margin).shown(Random(icon), 0.4))


if __name__ == "__main__":
    main()
