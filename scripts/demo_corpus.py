"""The text of the demo model: small English documents made from a seed, with no outside source.

A `World` is drawn once from the seed: invented towns with facts that never change (region, river, craft), so that a
model has something to remember. `World.document` then draws one document of one of the nine kinds below. Names, places
and numbers recur inside a document and a question at its end is answered from the text, so that attention and depth
matter; town and animal facts must come from the weights, so that the MLPs matter. No document holds a blank line.
"""

import random
from collections.abc import Callable

SHE = ("Ada Anna Bella Clara Dora Edith Elsa Fern Greta Hanna Ida Iris June Kira Lena Lily Mara Mina Nell Nora Olga "
       "Paula Rosa Ruth Sara Tilda Una Vera Wilma Zoe").split()
HE = ("Abel Arno Ben Boris Carl Daniel Emil Felix Finn Georg Hugo Ivan Jakob Jonas Karl Leo Max Milo Nils Oskar Otto "
      "Paul Peter Rolf Sam Theo Tom Viktor Walter Yann").split()
THINGS = ("key lamp book ring coin map rope drum flute basket kettle ladder mirror needle pencil candle blanket button "
          "hammer bottle ribbon whistle letter spoon").split()
GOODS = ("apple pear plum egg nut carrot onion lemon bean fig melon turnip beet biscuit pancake walnut").split()
SPOTS = ("mill barn market harbour garden kitchen cellar attic tower bridge school bakery forest meadow stable "
         "library chapel workshop").split()
CRAFTS = ("cheese glass boats bells paper honey carpets clocks bread shoes silk pottery wine ropes violins soap lace "
          "knives candles salt").split()
LOOKS = "old red small heavy blue shiny green broken wooden silver round painted".split()
MOODS = {"glad": "smiled", "proud": "danced", "tired": "yawned", "calm": "nodded", "merry": "laughed", "shy": "blushed"}
# Kind of animal: what all of them have, what they can do, what they cannot do.
CLASSES = {"bird": ("feathers", "lay eggs", "read books"), "fish": ("fins", "swim", "walk on land"),
           "insect": ("six legs", "crawl", "sing songs"),
           "mammal": ("warm blood", "feed milk to their young", "lay eggs")}
# Animal: kind, where it lives, what it eats.
ANIMALS = {"owl": ("bird", "the forest", "mice"), "duck": ("bird", "the pond", "weeds"),
           "eagle": ("bird", "the mountains", "rabbits"), "robin": ("bird", "the garden", "worms"),
           "heron": ("bird", "the marsh", "frogs"), "trout": ("fish", "the stream", "flies"),
           "shark": ("fish", "the sea", "seals"), "eel": ("fish", "the river", "snails"),
           "carp": ("fish", "the pond", "weeds"), "ant": ("insect", "the meadow", "seeds"),
           "beetle": ("insect", "the forest", "leaves"), "cricket": ("insect", "the meadow", "grass"),
           "bee": ("insect", "the garden", "nectar"), "horse": ("mammal", "the stable", "hay"),
           "goat": ("mammal", "the mountains", "grass"), "otter": ("mammal", "the river", "crabs"),
           "seal": ("mammal", "the sea", "herring"), "badger": ("mammal", "the forest", "worms")}
STEPS = {2: "twos", 3: "threes", 4: "fours", 5: "fives", 10: "tens"}


def article(word: str) -> str:
    """`a` or `an` before `word`, and the word."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def plural(word: str) -> str:
    """Plural of a noun of this file; fish keep their form as English has it."""
    return word if word in ("trout", "carp") else word + "s"


def amount(n: int, noun: str) -> str:
    """`1 apple`, `4 apples`."""
    return f"{n} {noun if n == 1 else plural(noun)}"


def series(words: list[str]) -> str:
    """`a, b and c`."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def qa(question: str, answer: str) -> str:
    """The two lines with which most documents end."""
    return f"Question: {question}\nAnswer: {answer}"


class Person:
    """A name with the pronouns that agree with it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.he, self.his = ("she", "her") if name in SHE else ("he", "his")
        self.He = self.he.capitalize()


class World:
    """Facts drawn once from a seed, and the generators of documents that agree with them."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(f"{seed}/world")
        heads = "Al Bor Cal Dor El Far Gal Hal Is Kel Lor Mor Nor Or Pel Ros Sel Tar Ul Vel".split()
        names = [head + tail for head in heads for tail in "by dale den ford mere stad wick".split()]
        regions = "Dorn Estmark Halland Lowmoor Sundry Westfold".split()
        rivers = "Asse Brin Cole Drave Esk Finne Glan Hune".split()
        self.towns = {t: (rng.choice(regions), rng.choice(rivers), rng.choice(CRAFTS)) for t in rng.sample(names, 40)}
        self.kinds: list[Callable[[random.Random], str]] = [
            self.search, self.passing, self.sums, self.town, self.shopping, self.counting, self.letter, self.animal,
            self.order]

    def document(self, rng: random.Random) -> str:
        """One document of a kind drawn at random."""
        return rng.choice(self.kinds)(rng)

    def people(self, rng: random.Random, n: int) -> list[Person]:
        """`n` different people."""
        return [Person(name) for name in rng.sample(SHE + HE, n)]

    def search(self, rng: random.Random) -> str:
        """A thing is lost, looked for in several places and found in the last."""
        who, friend = self.people(rng, 2)
        town, mood = rng.choice(list(self.towns)), rng.choice(list(MOODS))
        look, thing = rng.choice(LOOKS), rng.choice(THINGS)
        spots = rng.sample(SPOTS, rng.randint(2, 4))
        _, river, craft = self.towns[town]
        lines = [f"{who.name} lived in {town}, by the river {river}, where people make {craft}. "
                 f"{who.He} had {article(look)} {thing}. One day {who.he} could not find it. "
                 f'"Where is my {look} {thing}?" asked {who.name}. {friend.name} came to help.']
        for spot in spots[:-1]:
            seen = rng.choice([t for t in THINGS if t != thing])
            lines.append(f"They looked in the {spot}, but they only found {article(seen)}.")
        lines.append(f"Then they looked in the {spots[-1]}, and there was the {look} {thing}! "
                     f'{who.name} felt {mood} and {MOODS[mood]}. "Thank you, {friend.name}," said {who.name}. '
                     f"They went home to {town}.")
        asked = rng.sample([(f"Where did they find the {look} {thing}?", f"In the {spots[-1]}."),
                            (f"Who helped {who.name}?", f"{friend.name} did."),
                            ("Where did they look first?", f"In the {spots[0]}."),
                            (f"Where does {who.name} live?", f"In {town}."),
                            (f"How did {who.name} feel?", f"{who.He} felt {mood}.")], 3)
        return "\n".join([" ".join(lines), *(qa(*pair) for pair in asked)])

    def passing(self, rng: random.Random) -> str:
        """People move between places and pass things on; the questions need the last state."""
        group, spots = self.people(rng, rng.randint(2, 3)), rng.sample(SPOTS, 4)
        things = rng.sample(THINGS, 2)
        at = {p.name: rng.choice(spots) for p in group}
        owner = {thing: rng.choice(group).name for thing in things}
        lines = [f"{p.name} was in the {at[p.name]}." for p in group]
        lines += [f"{owner[thing]} had the {thing}." for thing in things]
        for _ in range(rng.randint(4, 8)):
            thing = rng.choice(things)
            here = [p.name for p in group if at[p.name] == at[owner[thing]] and p.name != owner[thing]]
            if here and rng.random() < 0.7:
                taker = rng.choice(here)
                lines.append(f"{owner[thing]} gave the {thing} to {taker}.")
                owner[thing] = taker
            else:
                mover = rng.choice(group).name
                at[mover] = rng.choice([s for s in spots if s != at[mover]])
                lines.append(f"{mover} went to the {at[mover]}.")
        asked = [qa(f"Who has the {thing}?", f"{owner[thing]} has the {thing}.") for thing in things]
        asked += [qa(f"Where is the {thing}?", f"The {thing} is in the {at[owner[thing]]}.") for thing in things]
        return "\n".join([" ".join(lines), *rng.sample(asked, 2)])

    def sums(self, rng: random.Random) -> str:
        """Small additions and subtractions, the running count told after each."""
        who, friend = self.people(rng, 2)
        good, have = rng.choice(GOODS), rng.randint(2, 12)
        start = have
        lines = [f"{who.name} had {amount(have, good)}."]
        for _ in range(rng.randint(3, 6)):
            if have > 2 and rng.random() < 0.5:
                n = rng.randint(1, min(9, have - 1))
                have -= n
                lines.append(rng.choice([f"{who.He} gave {amount(n, good)} to {friend.name}.",
                                         f"{who.He} ate {amount(n, good)}.",
                                         f"{who.He} sold {amount(n, good)} at the market."]))
            else:
                n = rng.randint(1, 9)
                have += n
                lines.append(rng.choice([f"{who.He} bought {amount(n, good)}.",
                                         f"{who.He} found {amount(n, good)}.",
                                         f"{friend.name} gave {amount(n, good)} to {who.name}."]))
            lines.append(f"Now {who.he} had {amount(have, good)}.")
        change = "more" if have > start else "fewer" if have < start else "as many"
        asked = [qa(f"How many {plural(good)} does {who.name} have?", f"{who.name} has {amount(have, good)}."),
                 qa(f"Does {who.name} have more or fewer {plural(good)} than at first?", f"{who.name} has {change}.")]
        return "\n".join([" ".join(lines), *rng.sample(asked, rng.randint(1, 2))])

    def town(self, rng: random.Random) -> str:
        """Facts of the world: only the weights can know them before the text has said them."""
        lines = []
        names = rng.sample(list(self.towns), rng.randint(2, 3))
        for name in names:
            region, river, craft = self.towns[name]
            facts = [f"The river {river} runs through {name}.", f"The people of {name} make {craft}.",
                     f"If you want good {craft}, go to {name}.", f"{name} lies on the banks of the {river}."]
            lines.append(" ".join([f"{name} is a town in {region}.", *rng.sample(facts, 3)]))
        here = rng.choice(names)
        region, river, craft = self.towns[here]
        asked = [(f"In which region is {here}?", f"In {region}."),
                 (f"What do the people of {here} make?", f"They make {craft}."),
                 (f"Which river runs through {here}?", f"The {river}.")]
        return "\n".join([*lines, *(qa(*pair) for pair in rng.sample(asked, 2))])

    def shopping(self, rng: random.Random) -> str:
        """A list that is copied, reversed and changed by one item."""
        who, friend = self.people(rng, 2)
        goods = rng.sample(GOODS, rng.randint(4, 7))
        items = [amount(rng.randint(1, 9), good) for good in goods]
        lost = rng.randrange(len(items))
        left = items[:lost] + items[lost + 1:]
        return "\n".join([
            f"{who.name} wrote a list: {series(items)}. {who.He} read it aloud to {friend.name}: {series(items)}.",
            f"{friend.name} read it from the end: {series(items[::-1])}.",
            f"At the market there were no {plural(goods[lost])}, so {who.name} bought {series(left)}.",
            rng.choice([qa(f"What came first on the list of {who.name}?", f"First came {items[0]}."),
                        qa(f"What came last on the list of {who.name}?", f"Last came {items[-1]}."),
                        qa(f"What could {who.name} not buy?", f"{who.name} could not buy {items[lost]}.")])])

    def counting(self, rng: random.Random) -> str:
        """Number lines with a step, upwards and downwards."""
        who, friend = self.people(rng, 2)
        parts = []
        for person in rng.sample([who, friend, who], rng.randint(2, 3)):
            step, n = rng.choice(list(STEPS)), rng.randint(6, 10)
            first = rng.randint(1, 20)
            numbers = list(range(first, first + step * n, step))
            up = rng.random() < 0.6
            shown = numbers if up else numbers[::-1]
            parts.append(f"{person.name} counted {'up' if up else 'down'} by {STEPS[step]} from {shown[0]} to "
                         f"{shown[-1]}: {', '.join(map(str, shown))}. That made {n} numbers.")
            last = (person.name, shown[-1])
        return "\n".join([*parts, qa(f"At which number did {last[0]} stop last?", f"{last[0]} stopped at {last[1]}.")])

    def letter(self, rng: random.Random) -> str:
        """A letter whose greeting, body and signature agree."""
        who, to, other = self.people(rng, 3)
        town, look, thing = rng.choice(list(self.towns)), rng.choice(LOOKS), rng.choice(THINGS)
        region, river, craft = self.towns[town]
        mood, good, n = rng.choice(list(MOODS)), rng.choice(GOODS), rng.randint(2, 9)
        said = rng.sample([
            f"Yesterday {other.name} and I walked along the {river}.",
            f"I bought some {craft} here, as everyone does in {town}.",
            f"Please send me the {look} {thing} that you found.",
            f"I am {mood}, because {other.name} found {other.his} {thing}.",
            f"{other.name} picked {amount(n, good)} and kept them for you.",
            f"Tell {other.name} that {other.his} {thing} is safe."], rng.randint(3, 4))
        return "\n".join([f"Dear {to.name},", f"I write to you from {town} in {region}. " + " ".join(said),
                          "Your friend,", who.name,
                          rng.choice([qa("Who wrote the letter?", f"{who.name} wrote it to {to.name}."),
                                      qa(f"Where is {who.name}?", f"{who.name} is in {town}."),
                                      qa("Who got the letter?", f"{to.name} got it from {who.name}.")])])

    def animal(self, rng: random.Random) -> str:
        """Facts about animals and what follows from their kind, with agreement in number."""
        parts = []
        for name in rng.sample(list(ANIMALS), rng.randint(2, 3)):
            kind, home, food = ANIMALS[name]
            have, can, cannot = CLASSES[kind]
            many = plural(name).capitalize()
            facts = [f"It lives in {home}.", f"{many} eat {food}.", f"It has {have}, as every {kind} has.",
                     f"{many} can {can}, but they cannot {cannot}."]
            other = rng.choice([kind, *CLASSES])
            verdict = f"Yes, the {name} is {article(kind)}."
            if other != kind:
                verdict = f"No, the {name} is {article(kind)}, not {article(other)}."
            parts.append(f"The {name} is {article(kind)}. " + " ".join(rng.sample(facts, rng.randint(2, 4))))
            parts.append(qa(f"Is the {name} {article(other)}?", verdict))
        return "\n".join(parts)

    def order(self, rng: random.Random) -> str:
        """A chain of comparisons told out of order; the ends of the chain are asked for."""
        group = self.people(rng, rng.randint(3, 5))
        more, most, less, least = rng.choice([("taller", "tallest", "shorter", "shortest"),
                                              ("older", "oldest", "younger", "youngest"),
                                              ("faster", "fastest", "slower", "slowest")])
        pairs = list(zip(group, group[1:], strict=False))
        rng.shuffle(pairs)
        lines = [f"{a.name} is {more} than {b.name}." if rng.random() < 0.5 else f"{b.name} is {less} than {a.name}."
                 for a, b in pairs]
        names = [p.name for p in group]
        return "\n".join([" ".join(lines), qa(f"Who is the {most}?", f"{names[0]} is the {most}."),
                          qa(f"Who is the {least}?", f"{names[-1]} is the {least}."),
                          f"From the {most} to the {least} they are {series(names)}."])


def documents(seed: int, split: str, size: int, seen: set[str]) -> list[str]:
    """Different documents of about `size` characters in all, none of them in `seen`, which they join."""
    world, rng = World(seed), random.Random(f"{seed}/{split}")
    made, total = [], 0
    while total < size:
        text = world.document(rng)
        if text not in seen:
            seen.add(text)
            made.append(text)
            total += len(text) + 2
    return made
