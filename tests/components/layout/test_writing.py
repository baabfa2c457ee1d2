"""Texts written into page files: what is new, and that all else stays as it was."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping

import pytest

from components.layout import (
    LineText,
    PageFileError,
    ProcessingStep,
    WordText,
    can_stand_in_xml,
    find_format,
    parse_page_file,
    write_texts,
)

STEP = ProcessingStep("b0bb1e5c0de5", "2026-03-01T00:00:00Z")
BOX = (10.4, 20, 110, 50)
WORDS = (
    WordText("zwei", 0.5, ((10, 20), (50.2, 20), (50.2, 49.5), (10, 49.5))),
    WordText("W<&>rte", 1.0, ((60, 20), (110, 20), (110, 50), (60, 50))),
)
TEXT = LineText("zwei W<&>rte", 0.875, BOX, WORDS)
WHOLE = LineText('ganz "ohne" Ort', None, BOX)

ALTO = """<?xml version="1.0" encoding="UTF-8"?>
<!-- made by hand -->
<?tool keep="this"?>
<alto xmlns="http://www.loc.gov/standards/alto/ns-v{version}#" xmlns:x="urn:other" SCHEMAVERSION="{version}.0">
  <Description>
    <MeasurementUnit>pixel</MeasurementUnit>
    <sourceImageInformation><fileName>p.jpg</fileName></sourceImageInformation>
  </Description>
  <Layout><Page ID="p" WIDTH="700" HEIGHT="420"><PrintSpace HPOS="0" VPOS="0" WIDTH="700" HEIGHT="420">
    <TextBlock ID="b" x:note="a > b" TAGREFS="">
      <TextLine ID="l1" HPOS="10" VPOS="20" WIDTH="100" HEIGHT="30">
        <Shape><Polygon POINTS="10 20 110 20 110 50 10 50"/></Shape>
        <String ID="s1" CONTENT="alter" HPOS="10" VPOS="20"><ALTERNATIVE>alt</ALTERNATIVE></String>
        <SP WIDTH="5"/><!-- between -->
        <String CONTENT="Te"/><HYP CONTENT="-"/>
      </TextLine>
      <TextLine ID="l2" HPOS="10" VPOS="60" WIDTH="100" HEIGHT="30"><String CONTENT="bleibt"/></TextLine>
      <TextLine ID="l3" HPOS="10" VPOS="90" WIDTH="100" HEIGHT='30'/>
      <TextLine ID="l4" HPOS="10" VPOS="130" WIDTH="100" HEIGHT="30"></TextLine>
    </TextBlock>
    <Illustration ID="i" HPOS="1" VPOS="2" WIDTH="3" HEIGHT="4"/>
  </PrintSpace></Page></Layout>
</alto>
<!-- the end -->
"""
PAGE = """<?xml version="1.0" encoding="UTF-8"?>
<PcGts xmlns="http://schema.primaresearch.org/PAGE/gts/pagecontent/{version}">
  <Metadata><Creator>me</Creator><Created>2020-01-01T00:00:00</Created><LastChange>2020-01-01T00:00:00</LastChange></Metadata>
  <Page imageFilename="p.jpg" imageWidth="700" imageHeight="420">
    <TextRegion id="r1">
      {coords}
      <TextLine id="l1">
        {coords}
        <Word id="word_1"><TextEquiv><Unicode>alt</Unicode></TextEquiv></Word>
        <Word id="w2"><TextEquiv><Unicode>er</Unicode></TextEquiv></Word>
        <TextEquiv index="1"><Unicode>alter</Unicode></TextEquiv>
        <TextEquiv index="0"><Unicode>al ter</Unicode></TextEquiv>
        <TextStyle bold="true"/>
      </TextLine>
      <TextLine id="l2">{coords}<TextEquiv><Unicode>bleibt</Unicode></TextEquiv></TextLine>
      <TextLine id="l3">{coords}</TextLine>
      <TextEquiv><Unicode>alter
bleibt
</Unicode></TextEquiv>
      <TextStyle/>
    </TextRegion>
    <TextRegion id="r2">{coords}
      <TextLine id="l4">{coords}</TextLine><TextEquiv><Unicode>bleibt auch</Unicode></TextEquiv>
    </TextRegion>
  </Page>
</PcGts>
"""
POINTS = '<Coords points="10,20 110,20 110,50 10,50"/>'
OLD_POINTS = (
    "<Coords>" + "".join(f'<Point x="{x}" y="{y}"/>' for x, y in ((10, 20), (110, 20), (110, 50))) + "</Coords>"
)


def write(content: bytes | str, texts: Mapping[int, LineText], steps=(STEP,)) -> bytes:
    content = content.encode() if isinstance(content, str) else content
    return write_texts(content, parse_page_file(content), texts, steps)


def read_texts(content: bytes) -> list[str | None]:
    return [line.text for line in parse_page_file(content).lines]


def list_children(element: ElementTree.Element) -> list[str]:
    return [child.tag.partition("}")[2] for child in element]


def find_line(content: bytes, line_id: str) -> ElementTree.Element:
    root = ElementTree.fromstring(content)
    return next(e for e in root.iter() if e.get("ID", e.get("id")) == line_id and e.tag.endswith("TextLine"))


@pytest.mark.parametrize("version", [2, 3, 4])
def test_strings_of_an_alto_line_are_replaced_and_nothing_else(version):
    before = ALTO.format(version=version)
    after = write(before, {0: TEXT, 2: TEXT, 3: WHOLE})
    assert read_texts(after) == ["zwei W<&>rte", "bleibt", "zwei W<&>rte", 'ganz "ohne" Ort']
    line = find_line(after, "l1")
    assert list_children(line) == ["Shape", "String", "SP", "String"]
    first, space, second = line[1:]
    assert first.attrib == {"CONTENT": "zwei", "HPOS": "10", "VPOS": "20", "WIDTH": "41", "HEIGHT": "30", "WC": "0.5"}
    assert space.attrib == {"WIDTH": "9", "HPOS": "51", "VPOS": "20"}
    assert second.attrib == {
        "CONTENT": "W<&>rte",
        "HPOS": "60",
        "VPOS": "20",
        "WIDTH": "50",
        "HEIGHT": "30",
        "WC": "1.0",
    }
    (whole,) = find_line(after, "l4")
    assert whole.attrib == {"CONTENT": 'ganz "ohne" Ort', "HPOS": "10", "VPOS": "20", "WIDTH": "100", "HEIGHT": "30"}
    # What is left when old and new strings, and the step, are taken out of both.
    own = re.compile(r"\s*<(String|SP|HYP|OCRProcessing)\b.*?(/>|</\1>)", re.DOTALL)
    rest = own.sub("", re.sub("<String[^>]*><ALT.*?</String>", "", after.decode()))
    expected = own.sub("", re.sub("<String[^>]*><ALT.*?</String>", "", before))
    assert re.sub(r"\s", "", rest).replace("></TextLine>", "/>") == re.sub(r"\s", "", expected).replace(
        "></TextLine>", "/>"
    )
    for kept in (
        "<!-- made by hand -->",
        '<?tool keep="this"?>',
        "<!-- between -->",
        "<!-- the end -->",
        'x:note="a > b"',
    ):
        assert kept in after.decode()


@pytest.mark.parametrize("version", [2, 3, 4])
def test_the_model_is_named_in_a_step_of_an_alto_file(version):
    after = write(ALTO.format(version=version), {0: TEXT}, [STEP, ProcessingStep("other model", STEP.at)])
    description = next(e for e in ElementTree.fromstring(after) if e.tag.endswith("Description"))
    assert list_children(description) == ["MeasurementUnit", "sourceImageInformation", *["OCRProcessing"] * 2]
    first, second = description[2:]
    assert (first.get("ID"), second.get("ID")) == ("recognition-b0bb1e5c0de5", "recognition-other_model")
    (step,) = first
    assert list_children(step) == [
        "processingDateTime",
        "processingStepDescription",
        "processingStepSettings",
        "processingSoftware",
    ]
    assert [part.text for part in step][:3] == [STEP.at, "recognition of lines", "model b0bb1e5c0de5"]
    again = write(after, {0: TEXT})  # an exported file that is in a collection itself
    assert len(set(re.findall(rb'OCRProcessing ID="([^"]*)"', again))) == 3


def test_an_alto_file_without_a_description_gets_none():
    before = re.sub("<Description>.*</Description>", "", ALTO.format(version=3), flags=re.DOTALL)
    assert b"Processing" not in write(before, {0: TEXT})


@pytest.mark.parametrize("version", ["2010-03-19", "2013-07-15", "2019-07-15"])
def test_words_and_text_of_a_page_line_are_replaced(version):
    coords = OLD_POINTS if version.startswith("2010") else POINTS
    before = PAGE.format(version=version, coords=coords)
    after = write(before, {0: TEXT, 2: WHOLE})
    assert read_texts(after) == ["zwei W<&>rte", "bleibt", 'ganz "ohne" Ort', None]
    line = find_line(after, "l1")
    assert list_children(line) == ["Coords", "Word", "Word", "TextEquiv", "TextStyle"]
    assert list_children(find_line(after, "l3")) == ["Coords", "TextEquiv"]
    word, text = line[1], line[3]
    assert list_children(word) == ["Coords", "TextEquiv"]
    ids = re.findall(r'\bid="([^"]*)"', after.decode())
    assert len(ids) == len(set(ids)) == 8
    if version.startswith("2010"):
        assert list_children(text) == list_children(word[1]) == ["PlainText", "Unicode"]
        assert (text.attrib, [part.text for part in text]) == ({}, [TEXT.text] * 2)
        assert [(point.get("x"), point.get("y")) for point in word[0]][:2] == [("10", "20"), ("50", "20")]
    else:
        assert list_children(text) == ["Unicode"]
        assert (text.attrib, word[1].attrib) == ({"conf": "0.875"}, {"conf": "0.5"})
        assert word[0].get("points") == "10,20 50,20 50,50 10,50"
    assert find_line(after, "l3")[1].attrib == {}  # no confidence is known
    root = ElementTree.fromstring(after)
    regions = [e for e in root.iter() if e.tag.endswith("TextRegion")]
    assert list_children(regions[0]) == ["Coords", *["TextLine"] * 3, "TextEquiv", "TextStyle"]
    assert regions[0][4][-1].text == 'zwei W<&>rte\nbleibt\nganz "ohne" Ort'
    assert "<TextEquiv><Unicode>bleibt auch</Unicode></TextEquiv>" in after.decode()
    metadata = ["Creator", "Created", "LastChange"]
    assert list_children(root[0]) == (metadata if version < "2019" else [*metadata, "MetadataItem"])
    if version > "2019":
        assert root[0][3].attrib == {
            "type": "processingStep",
            "name": "recognition",
            "value": STEP.model_id,
            "date": STEP.at,
        }


def relate(version: str, *pairs: tuple[str, str]) -> str:
    """A PAGE file with relations, as of words that are divided at the end of a line."""
    names = ("RegionRef", "RegionRef") if version < "2016" else ("SourceRegionRef", "TargetRegionRef")
    relations = "".join(
        f'<Relation id="rel{number}" type="join">'
        f'<{names[0]} regionRef="{pair[0]}"/><{names[1]} regionRef="{pair[1]}"/></Relation>'
        for number, pair in enumerate(pairs)
    )
    page = PAGE.format(version=version, coords=POINTS)
    page = page.replace('<TextRegion id="r1">', f'<Relations>{relations}</Relations><TextRegion id="r1">')
    return page.replace(f'<TextLine id="l4">{POINTS}', f"<TextLine id='l4'>{POINTS}<Word id='w4'>{POINTS}</Word>")


@pytest.mark.parametrize("version", ["2013-07-15", "2019-07-15"])
def test_a_relation_of_words_that_are_gone_is_removed_since_its_references_would_lead_nowhere(version):
    """The schemas have references of the type IDREF, and `Relations` has one `Relation` at least."""
    before = relate(version, ("word_1", "w2"), ("r1", "r2"), ("w2", "w4"))
    assert [write(before, {number: TEXT}).count(b"<Relation ") for number in (0, 1, 3)] == [1, 3, 2]
    assert b'regionRef="r1"' in write(before, {0: TEXT, 3: TEXT})
    for changed in ({0: TEXT}, {3: WHOLE}):
        after = write(relate(version, ("w2", "w4")), changed)
        assert b"Relation" not in after
        root = ElementTree.fromstring(after)
        known = {element.get("id") for element in root.iter()}
        assert {element.get("regionRef") for element in root.iter()} - {None} <= known
    assert b"<Relations><Relation " in write(relate(version, ("w2", "w4")), {1: TEXT})


def test_places_below_zero_are_written_as_zero():
    outside = LineText("a", 1.0, (-5, -3, 4, 6), (WordText("a", 1.0, ((-5, -3), (4, -3), (4, 6), (-5, 6))),))
    assert b'points="0,0 4,0 4,6 0,6"' in write(PAGE.format(version="2019-07-15", coords=POINTS), {0: outside})
    assert b'HPOS="0" VPOS="0" WIDTH="4" HEIGHT="6"' in write(ALTO.format(version=4), {0: outside})


def test_prefixes_of_namespaces_are_kept():
    before = re.sub(r"<(/?)([A-Za-z])", r"<\1a:\2", ALTO.format(version=4)).replace("xmlns=", "xmlns:a=")
    after = write(before, {0: TEXT, 2: WHOLE})
    assert read_texts(after) == ["zwei W<&>rte", "bleibt", 'ganz "ohne" Ort', None]
    assert {e.tag.partition("}")[0] for e in ElementTree.fromstring(after).iter()} == {
        "{http://www.loc.gov/standards/alto/ns-v4#"
    }
    before = re.sub(r"<(/?)([A-Za-z])", r"<\1p:\2", PAGE.format(version="2010-03-19", coords=OLD_POINTS))
    after = write(before.replace("xmlns=", "xmlns:p="), {0: TEXT})
    assert b"<p:PlainText>" in after


@pytest.mark.parametrize(
    ("declared", "codec"),
    [
        ("UTF-8", "utf-8"),
        ("UTF-8", "utf-8-sig"),
        ("UTF-16", "utf-16"),
        ("ISO-8859-1", "latin-1"),
        ("windows-1252", "cp1252"),
        ("US-ASCII", "ascii"),
    ],
)
def test_a_file_keeps_its_encoding(declared, codec):
    before = ALTO.format(version=4).replace('encoding="UTF-8"', f'encoding="{declared}"')
    text = LineText("für ſ – 𝔸", 1.0, BOX)
    after = write(before.encode(codec), {0: text})
    assert read_texts(after)[0] == text.text
    assert after.decode(codec).startswith(f'<?xml version="1.0" encoding="{declared}"?>')
    assert after[:3] == before.encode(codec)[:3]


def test_a_file_without_changes_is_the_same_byte_for_byte():
    content = ALTO.format(version=4).replace("\n", "\r\n").encode()
    assert write_texts(content, parse_page_file(content), {}, ()) == content


def test_text_that_looks_like_markup_is_passed_over():
    """Tags within comments, sections of characters and attributes are none."""
    before = ALTO.format(version=4).replace(
        '<String CONTENT="bleibt"/>',
        "<!-- <String CONTENT='no'/> --><String CONTENT=\"bleibt > </TextLine>\"/>".replace("</", "&lt;/"),
    )
    after = write(before, {1: WHOLE})
    assert read_texts(after)[1] == WHOLE.text
    assert b"<!-- <String CONTENT='no'/> -->" in after


@pytest.mark.parametrize(
    "content",
    [
        '<!DOCTYPE alto [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><alto><Page>&b;</Page></alto>',
        f"<alto><Page/>{'<x>' * 200}{'</x>' * 200}</alto>",
        "<alto><Page/>",
        "<html/>",
    ],
)
def test_a_hostile_file_is_refused_as_it_is_when_it_is_read(content):
    with pytest.raises(PageFileError):
        parse_page_file(content.encode())
    if "html" not in content:
        with pytest.raises(PageFileError):
            find_format(content.encode())


def test_a_wide_space_is_not_repeated_for_every_word():
    """Twenty megabytes of white space before a line of many words would become gigabytes."""
    before = ALTO.format(version=4).replace('<String ID="s1"', f'{" " * 1_000_000}<String ID="s1"')
    assert len(write(before, {0: LineText("a", 1.0, BOX, WORDS * 20)})) < 1_200_000


def test_formats_and_symbols():
    assert find_format(ALTO.format(version=2).encode()) == "ALTO"
    assert find_format(PAGE.format(version="2013-07-15", coords=POINTS).encode()) == "PAGE"
    assert can_stand_in_xml("für\t𝔸�")
    assert not any(map(can_stand_in_xml, ("\0", "a\x1b", "\ufffe", "\ud800")))
