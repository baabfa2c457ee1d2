"""Page files: ALTO and PAGE in each version and spelling, damaged ones, and those made to do harm."""

import subprocess
import sys

import pytest

from components.layout import PageFile, PageFileError, PageLine, looks_like_page_file, parse_page_file

ALTO_SPACES = (
    "",
    ' xmlns="http://www.loc.gov/standards/alto/ns-v2#"',
    ' xmlns="http://www.loc.gov/standards/alto/ns-v3#"',
    ' xmlns="http://www.loc.gov/standards/alto/ns-v4#"',
)
PAGE_SPACES = ("2010-03-19", "2013-07-15", "2017-07-15", "2018-07-15", "2019-07-15")
PAGE_SPACE = ' xmlns="http://schema.primaresearch.org/PAGE/gts/pagecontent/{}"'


def alto(lines: str, *, space: str = ALTO_SPACES[3], unit: str = "pixel", tags: str = "", block: str = "") -> str:
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<alto{space}>
  <Description>
    <MeasurementUnit>{unit}</MeasurementUnit>
    <sourceImageInformation><fileName>scans/0001.jpg</fileName></sourceImageInformation>
  </Description>
  <Tags>{tags}</Tags>
  <Layout><Page WIDTH="2390" HEIGHT="3380.0"><PrintSpace>
    <TextBlock ID="b1" {block}>{lines}</TextBlock>
  </PrintSpace></Page></Layout>
</alto>"""


def page(content: str, *, version: str = PAGE_SPACES[1]) -> str:
    return f"""<?xml version="1.0" encoding="UTF-8" standalone="yes"?>
<PcGts{PAGE_SPACE.format(version)}>
  <Metadata><Creator/><Comments>a page</Comments></Metadata>
  <Page imageFilename="0001.tif" imageWidth="2120" imageHeight="2362">{content}</Page>
</PcGts>"""


def parse(text: str) -> PageFile:
    return parse_page_file(text.encode())


def parse_line(text: str) -> PageLine:
    (line,) = parse(text).lines
    return line


@pytest.mark.parametrize("space", ALTO_SPACES)
def test_alto_of_every_version_gives_its_lines(space):
    parsed = parse(
        alto(
            """<TextLine ID="l1" HPOS="10" VPOS="20" WIDTH="300" HEIGHT="40" BASELINE="12,50 300.5,52">
                 <Shape><Polygon POINTS="10,20 310,20 310,60 10,60"/></Shape>
                 <String CONTENT="An"/><SP/><String CONTENT="Herrn"/>
               </TextLine>
               <TextLine ID="l2"><String CONTENT="Meier"/></TextLine>""",
            space=space,
        )
    )
    assert (parsed.image_name, parsed.width, parsed.height) == ("scans/0001.jpg", 2390, 3380)
    assert parsed.lines == (
        PageLine(
            line_id="l1",
            text="An Herrn",
            polygon=((10, 20), (310, 20), (310, 60), (10, 60)),
            baseline=((12, 50), (300.5, 52)),
            box=(10, 20, 310, 60),
            types=frozenset(),
        ),
        PageLine("l2", "Meier", (), (), None, frozenset()),
    )


def test_a_prefix_of_the_namespace_changes_nothing():
    plain = alto('<TextLine ID="l1"><Shape><Polygon POINTS="1 2 3 4 5 0"/></Shape><String CONTENT="a"/></TextLine>')
    prefixed = plain.replace("</", "</a:").replace("<", "<a:").replace("<a:/a:", "</a:").replace("<a:?", "<?")
    assert "<a:TextLine" in prefixed
    assert "</a:alto>" in prefixed
    assert parse(prefixed.replace("xmlns=", "xmlns:a=")) == parse(plain)


def test_points_of_alto_are_read_in_both_spellings():
    for spelling in ("1 -2 30.5 -4 30 50", "1,-2 30.5,-4 30,50", " 1,-2\n30.5,-4\t30,50 "):
        line = parse_line(alto(f'<TextLine><Shape><Polygon POINTS="{spelling}"/></Shape></TextLine>'))
        assert line.polygon == ((1, -2), (30.5, -4), (30, 50))
        assert line.box == (1, -4, 30.5, 50)


def test_a_baseline_of_one_number_is_a_straight_one_at_that_row():
    box = 'HPOS="10" VPOS="20" WIDTH="300" HEIGHT="40"'
    assert parse_line(alto(f'<TextLine {box} BASELINE="52.5"/>')).baseline == ((10, 52.5), (310, 52.5))
    shape = '<Shape><Polygon POINTS="5,20 90,20 90,60"/></Shape>'
    assert parse_line(alto(f'<TextLine BASELINE="52">{shape}</TextLine>')).baseline == ((5, 52), (90, 52))
    assert parse_line(alto('<TextLine BASELINE="52"/>')).baseline == ()


def test_a_string_of_alto_has_its_own_outline_and_the_line_keeps_its():
    line = parse_line(
        alto(
            """<TextLine><Shape><Polygon POINTS="0,0 9,0 9,9"/></Shape>
                 <String CONTENT="a"><Shape><Polygon POINTS="1,1 2,1 2,2"/></Shape>
                   <Glyph CONTENT="a"><Shape><Polygon POINTS="3,3 4,3 4,4"/></Shape></Glyph></String>
               </TextLine>"""
        )
    )
    assert line.polygon == ((0, 0), (9, 0), (9, 9))
    assert line.text == "a"


def test_a_line_of_alto_has_the_text_that_stands_on_it():
    line = parse_line(
        alto(
            """<TextLine><String CONTENT="ein"/><SP/>
                 <String CONTENT="Trans" SUBS_TYPE="HypPart1" SUBS_CONTENT="Transport"><ALTERNATIVE>x</ALTERNATIVE>
                 </String><HYP CONTENT="-"/></TextLine>"""
        )
    )
    assert line.text == "ein Trans-"


def test_no_text_differs_from_an_empty_text():
    assert parse_line(alto("<TextLine/>")).text is None
    assert parse_line(alto('<TextLine><String CONTENT=""/></TextLine>')).text == ""
    assert parse_line(alto('<TextLine><String CONTENT=""/><String CONTENT="a"/></TextLine>')).text == "a"
    assert parse_line(page("<TextRegion><TextLine/></TextRegion>")).text is None
    equiv = "<TextEquiv><Unicode></Unicode></TextEquiv>"
    assert parse_line(page(f"<TextRegion><TextLine>{equiv}</TextLine></TextRegion>")).text == ""


def test_types_of_alto_are_the_labels_of_the_tags_of_a_line_and_its_blocks():
    tags = """<OtherTag ID="T1" LABEL="MainZone"/><LayoutTag ID="T2" LABEL="DefaultLine:Print"/>
              <StructureTag ID="T3" LABEL="Column"/>"""
    parsed = parse(
        alto(
            '<TextLine ID="a" TAGREFS="T2"/></TextBlock>'
            '<ComposedBlock TAGREFS="T3"><TextBlock TAGREFS="T1 T9"><TextLine ID="b"/></TextBlock></ComposedBlock>'
            '<TextBlock><TextLine ID="c"/>',
            tags=tags,
            block='TAGREFS="T1"',
        )
    )
    assert [line.types for line in parsed.lines] == [{"MainZone", "DefaultLine:Print"}, {"MainZone", "Column"}, set()]


def test_lines_of_one_or_no_id_are_named_by_their_place():
    parsed = parse(
        alto('<TextLine/><TextLine ID="x"/><TextLine ID="x"/><TextLine ID="line-0004-"/><TextLine ID="line-0003"/>')
    )
    assert [line.line_id for line in parsed.lines] == ["line-0001", "x", "line-0003-", "line-0004-", "line-0003"]


def test_units_that_nobody_knows_are_refused():
    with pytest.raises(PageFileError, match="its coordinates are in 'furlong', and it does not say how many"):
        parse(alto("<TextLine/>", unit="furlong"))


@pytest.mark.parametrize("unit", ["mm10", "inch1200"])
def test_millimetres_and_inches_are_read_if_the_page_has_a_size_in_them(unit):
    text = alto("<TextLine/>", unit=unit)
    assert not parse(text).in_pixels
    assert parse(alto("<TextLine/>")).in_pixels
    with pytest.raises(PageFileError, match=f"its coordinates are in '{unit}', and its Page has no WIDTH and HEIGHT"):
        parse(text.replace('HEIGHT="3380.0"', ""))


@pytest.mark.parametrize("version", PAGE_SPACES)
def test_page_of_every_version_gives_its_lines(version):
    parsed = parse(
        page(
            """<TextRegion id="r1"><Coords points="0,0 9,0 9,9"/>
                 <TextLine id="l1"><Coords points="-3,-4 100,0 100,30.5 0,30"/><Baseline points="0,25 50,26 100,25"/>
                   <Word><Coords points="1,1 2,1 2,2"/><TextEquiv><Unicode>Nr</Unicode></TextEquiv></Word>
                   <TextEquiv conf="0.9"><PlainText>Nr. 87.</PlainText><Unicode>Nr. 87.</Unicode></TextEquiv>
                 </TextLine>
                 <TextEquiv><Unicode>all of the region</Unicode></TextEquiv>
               </TextRegion>""",
            version=version,
        )
    )
    assert parsed == PageFile(
        "0001.tif",
        2120,
        2362,
        (
            PageLine(
                "l1",
                "Nr. 87.",
                ((-3, -4), (100, 0), (100, 30.5), (0, 30)),
                ((0, 25), (50, 26), (100, 25)),
                (-3, -4, 100, 30.5),
                frozenset(),
            ),
        ),
    )


def test_points_of_page_may_be_elements():
    line = parse_line(
        page(
            """<TextRegion><Coords><Point x="7" y="7"/></Coords><TextLine>
                 <Coords><Point x="1" y="-2"/><Point x="9" y="0"/><Point x="9" y="8.5"/></Coords>
                 <Baseline><Point x="1" y="7"/><Point x="9" y="6"/></Baseline>
                 <Word><Coords><Point x="3" y="3"/></Coords></Word>
               </TextLine></TextRegion>""",
            version=PAGE_SPACES[0],
        )
    )
    assert (line.polygon, line.baseline) == (((1, -2), (9, 0), (9, 8.5)), ((1, 7), (9, 6)))


@pytest.mark.parametrize(
    ("texts", "right"),
    [
        ([("1", "second"), ("0", "first")], "first"),
        ([("", "first"), ("", "second")], "first"),
        ([("", "without"), ("3", "with")], "with"),
        ([("-", "none"), ("2", "second"), ("1", "first"), ("1", "later")], "first"),
    ],
)
def test_a_line_of_page_has_the_text_of_the_lowest_index(texts, right):
    equivs = "".join(f'<TextEquiv index="{i}"><Unicode>{text}</Unicode></TextEquiv>' for i, text in texts)
    equivs = equivs.replace(' index=""', "")
    assert parse_line(page(f"<TextRegion><TextLine>{equivs}</TextLine></TextRegion>")).text == right


def test_a_line_of_page_without_a_text_has_that_of_its_words():
    words = "".join(
        f"""<Word><Glyph><TextEquiv><Unicode>g</Unicode></TextEquiv></Glyph>
              <TextEquiv index="1"><Unicode>not this</Unicode></TextEquiv>
              <TextEquiv index="0"><Unicode>{word}</Unicode></TextEquiv></Word>"""
        for word in ("Nr.", "", "87 &amp; 88")
    )
    assert parse_line(page(f"<TextRegion><TextLine>{words}<Word/></TextLine></TextRegion>")).text == "Nr. 87 & 88"


def test_types_of_page_are_those_of_its_regions_and_structures():
    parsed = parse(
        page(
            r"""<TextRegion type="paragraph" custom="readingOrder {index:0;} structure {type:note;}">
                  <TextRegion type="heading">
                    <TextLine id="a" custom="structure {score:1; type:catch\u002dword;} readingOrder {index:3;}"/>
                  </TextRegion>
                  <TextLine id="b" custom="readingOrder {type:no;}"/>
                </TextRegion>
                <TableRegion custom="structure {type:list;}"><TableCell><TextLine id="c"/></TableCell>
                  <TextRegion type="other"><TextLine id="d"/></TextRegion></TableRegion>"""
        )
    )
    assert {line.line_id: set(line.types) for line in parsed.lines} == {
        "a": {"paragraph", "note", "heading", "catch-word"},
        "b": {"paragraph", "note"},
        "c": {"list"},
        "d": {"list", "other"},
    }


def test_polygons_of_a_point_or_two_are_kept_and_have_no_area():
    def read(points: str) -> PageLine:
        return parse_line(page(f'<TextRegion><TextLine><Coords points="{points}"/></TextLine></TextRegion>'))

    assert read("1,2 3,4").polygon == ((1, 2), (3, 4), (3, 4))
    assert read("1,2").polygon == ((1, 2), (1, 2), (1, 2))
    assert (read("").polygon, read("").box) == ((), None)
    assert parse_line(alto('<TextLine BASELINE="1 2"/>')).baseline == ()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "iso-8859-1"])
@pytest.mark.parametrize("text", [alto('<TextLine><String CONTENT="é"/></TextLine>'), page("")], ids=["alto", "page"])
def test_files_in_other_encodings_are_known_and_read(encoding, text):
    name = "utf-16" if encoding.startswith("utf-16") else encoding.removesuffix("-sig")
    content = text.replace("UTF-8", name).encode(encoding)
    assert looks_like_page_file(content[:300])
    assert [line.text for line in parse_page_file(content).lines] == ["é"] * text.count("<TextLine")


@pytest.mark.parametrize(
    "beginning",
    ["<alto>", '<a:alto xmlns:a="x">', "<PcGts\n", "<!-- <html> -->\n<?x y?>\n<alto/>", "<!DOCTYPE alto [", " <PcGts "],
)
def test_a_page_file_is_known_by_its_root(beginning):
    assert looks_like_page_file(beginning.encode())


@pytest.mark.parametrize(
    "beginning",
    ["", "alto", "<altona>", "<html><alto>", "<!-- <alto> -->", "<!-- <alto>", "<?xml", "<PcGt", '{"<alto>": 1}', "<"],
)
def test_other_files_are_no_page_files(beginning):
    assert not looks_like_page_file(beginning.encode())
    assert not looks_like_page_file(b"\x89PNG\r\n\0\xff<alto>")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "damaged XML at line 1, column 1: no element found"),
        ("<alto>\n<Layout></alto>", "damaged XML at line 2, column 11: mismatched tag"),
        (alto("<TextLine/>")[:-20], "damaged XML at line 1., column"),
        ("<html/>", "its root element is 'html', neither alto nor PcGts"),
        ("<alto/>", "it is ALTO without a Page"),
        ("<PcGts/>", "it is PAGE without a Page"),
        ("<alto><Page/><Page/></alto>", "several pages"),
        ("<alto><fileName>&nbsp;</fileName></alto>", "undefined entity"),
        ('<?xml version="1.0" encoding="gb2312"?><alto/>', "an encoding that is not read"),
        ('<?xml version="1.0" encoding="no-such"?><alto/>', "an encoding that is not read: .*no-such"),
        (alto('<TextLine ID="l1" BASELINE="1 2 3"/>'), "the baseline of the line 'l1' has 3 coordinates"),
        (alto('<TextLine/><TextLine HPOS="a" VPOS="1" WIDTH="1" HEIGHT="1"/>'), "box of the line 'line-0002' .*'a'"),
        (alto('<TextLine><Shape><Polygon POINTS="1 2 nan 4"/></Shape></TextLine>'), "that no image has: 'nan'"),
        (alto('<TextLine><Shape><Polygon POINTS="1e300 2"/></Shape></TextLine>'), "that no image has"),
        (alto("<TextLine><TextLine/></TextLine>"), "a line lies in the line"),
        (page('<TextRegion><TextLine><Coords><Point x="1"/></Coords></TextLine></TextRegion>'), "not a number: ''"),
        ('<PcGts><Page imageWidth="wide"/></PcGts>', "the page's imageWidth has .*'wide'"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(text, problem):
    with pytest.raises(PageFileError, match=problem):
        parse(text)


ENTITIES = '<!ENTITY a0 "lol">' + "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))


@pytest.mark.parametrize(
    "declaration",
    [
        f"<!DOCTYPE alto [{ENTITIES}]><alto><Page>&a9;</Page></alto>",
        f'<!DOCTYPE alto [{ENTITIES}]><alto><Page WIDTH="&a9;"/></alto>',
        '<!DOCTYPE alto [<!ENTITY x SYSTEM "file:///etc/passwd">]><alto><fileName>&x;</fileName><Page/></alto>',
        '<!DOCTYPE alto SYSTEM "http://localhost:1/alto.dtd"><alto><Page/></alto>',
        "<!DOCTYPE alto><alto><Page/></alto>",
    ],
    ids=["entities", "entities in an attribute", "external entity", "external type", "bare"],
)
def test_a_document_type_is_refused(declaration):
    assert looks_like_page_file(declaration.encode())
    with pytest.raises(PageFileError, match="document type"):
        parse(declaration)


BOUNDS = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1_000_000_000,) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (60,) * 2)
from components.layout import PageFileError, parse_page_file
for content in (
    b"<alto>" + b"<a>" * 16_000_000,
    b"<alto><Layout><Page>" + b"<a/>" * 3_000_000,
    b"<alto><Layout><Page>" + b"<TextLine/>" * 200_000,
    b"<alto><Page><TextLine><Shape><Polygon POINTS='" + b"1 2 " * 10_000_000 + b"'/></Shape></TextLine></Page></alto>",
    b"<PcGts><Page><TextLine><Coords>" + b"<Point x='1' y='2'/>" * 1_000_000,
    b"<PcGts><Page><TextLine custom='" + b"structure {" * 1_000_000 + b"'></TextLine></Page>",
    b"<alto " + b"y" * 20_000_000,
    b" " * 100_000_001,
):
    try:
        parse_page_file(content)
    except PageFileError as error:
        print(error)
"""


@pytest.mark.slow
def test_files_that_are_made_to_do_harm_take_bounded_time_and_memory():
    done = subprocess.run([sys.executable, "-c", BOUNDS], capture_output=True, text=True, check=True, timeout=240)
    problems = done.stdout.splitlines()
    expected = ["100 deep", "elements", "lines", "10000 points", "10000 points", "damaged", "damaged", "bytes"]
    assert len(problems) == len(expected)
    assert all(part in problem for part, problem in zip(expected, problems, strict=True))


@pytest.mark.shared_data
def test_real_files_give_all_their_lines(shared_data):
    files = sorted((shared_data / "pages").rglob("*.xml"))
    assert files
    for file in files:
        content = file.read_bytes()
        assert looks_like_page_file(content[:4096])
        lines = parse_page_file(content).lines
        assert len(lines) == content.count(b"<TextLine ")
        assert all(line.polygon and line.baseline and line.text is not None for line in lines)
        assert sum(not line.types for line in lines) <= 1
