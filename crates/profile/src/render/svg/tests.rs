//! The picture as an XML reader sees it.

use proptest::prelude::*;
use roxmltree::{Document, Node};

use super::{
    label::{CHARACTER_PIXELS, MIN_CHARACTERS, PADDING_PIXELS},
    *,
};
use crate::{ProfileBuilder, fixtures};

fn render(profile: &Profile) -> String {
    let mut out = Vec::new();
    write(profile, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn bars<'a>(document: &'a Document<'a>) -> Vec<Node<'a, 'a>> {
    let plot = document
        .descendants()
        .find(|node| node.attribute("class") == Some("plot"))
        .unwrap();
    plot.children().filter(Node::is_element).collect()
}

fn child<'a>(bar: Node<'a, 'a>, name: &str) -> Option<Node<'a, 'a>> {
    bar.children()
        .find(|node| node.has_tag_name(name) || node.tag_name().name() == name)
}

fn title<'a>(bar: Node<'a, 'a>) -> &'a str {
    child(bar, "title").unwrap().text().unwrap()
}

fn text_of<'a>(document: &'a Document<'a>, class: &str) -> Vec<&'a str> {
    document
        .descendants()
        .filter(|node| node.attribute("class") == Some(class))
        .filter_map(|node| node.text())
        .collect()
}

fn style_of_bar(document: &Document<'_>, function: &str) -> char {
    let bars = bars(document);
    let bar = bars.iter().find(|bar| title(**bar).starts_with(function)).unwrap();
    child(*bar, "rect")
        .unwrap()
        .attribute("class")
        .unwrap()
        .chars()
        .next()
        .unwrap()
}

#[test]
fn header_says_what_when_and_how_far_to_trust_it() {
    let svg = render(&fixtures::service());
    let document = Document::parse(&svg).unwrap();
    assert_eq!(text_of(&document, "title"), ["web (pid 7)"]);
    assert_eq!(
        text_of(&document, "subtitle"),
        ["CPU time 1.01 s  ·  2026-03-01 12:00:00 – 12:01:00 UTC  ·  60.0 s at 99 Hz"]
    );
    assert_eq!(
        text_of(&document, "note"),
        ["100 samples, 0 lost, 100 % with a proven root, no user frames"]
    );
    let legend = [
        "own time:",
        "kernel 61.0 %",
        "native 0.0 %",
        "inlined 0.0 %",
        "Python 30.0 %",
        "unnamed 9.0 %",
    ];
    assert_eq!(text_of(&document, "legend"), legend);
}

#[test]
fn bars_tell_cost_place_and_kind() {
    let svg = render(&fixtures::service());
    let document = Document::parse(&svg).unwrap();
    let titles: Vec<&str> = bars(&document).into_iter().map(title).collect();
    assert_eq!(titles[0], "web (pid 7)\n100 samples, 100.00 %, 1.01 s");
    let main = titles.iter().find(|title| title.starts_with("main\n")).unwrap();
    assert_eq!(
        *main,
        "main\n99 samples, 99.00 %, 1.00 s; itself 0, 0.00 %\nnative in web\nsrc/main.rs:10 (most of 2 lines)"
    );
    for (function, style) in [
        ("read", 'k'),
        ("serve", 'n'),
        ("poll", 'i'),
        ("handler", 'p'),
        ("libfoo.so.1+0x10", 'u'),
        ("web", 'r'),
    ] {
        assert_eq!(style_of_bar(&document, function), style, "{function}");
    }
}

#[test]
fn several_processes_hang_below_one_bar() {
    let profile = fixtures::profile(&[("web", 1, &["main"], 1), ("web", 2, &["main"], 3)]);
    let svg = render(&profile);
    let document = Document::parse(&svg).unwrap();
    let names: Vec<&str> = bars(&document)
        .into_iter()
        .map(|bar| title(bar).lines().next().unwrap())
        .collect();
    assert_eq!(
        names,
        ["all (2 processes)", "web (pid 1)", "web (pid 2)", "main", "main"]
    );
    assert_eq!(text_of(&document, "title"), ["2 processes"]);
}

#[test]
fn a_service_gives_the_title() {
    let mut builder = fixtures::builder();
    for pid in 1..=3 {
        let process = ProcessLabel {
            service: "shop".into(),
            ..fixtures::process("web", pid)
        };
        builder.add(&process, &"web".into(), [fixtures::frame("main")].into_iter(), 1);
    }
    let svg = render(&builder.build());
    assert_eq!(
        text_of(&Document::parse(&svg).unwrap(), "title"),
        ["shop (3 processes)"]
    );
}

#[test]
fn hostile_names_are_text_and_nothing_else() {
    let profile = fixtures::hostile();
    let svg = render(&profile);
    let document = Document::parse(&svg).unwrap();
    let elements = ["svg", "style", "rect", "text", "g", "title", "script"];
    for node in document.descendants().filter(Node::is_element) {
        assert!(elements.contains(&node.tag_name().name()), "{:?}", node.tag_name());
        let known = |name: &str| {
            [
                "class",
                "x",
                "y",
                "dx",
                "width",
                "height",
                "fill",
                "text-anchor",
                "data-s",
                "version",
                "viewBox",
            ]
            .contains(&name)
        };
        assert!(node.attributes().all(|attribute| known(attribute.name())), "{node:?}");
    }
    let script = document
        .descendants()
        .find(|node| node.has_tag_name(("http://www.w3.org/2000/svg", "script")))
        .unwrap();
    assert_eq!(script.text().unwrap().trim(), SCRIPT.trim());
    let titles: Vec<&str> = bars(&document).into_iter().map(title).collect();
    assert!(
        titles
            .iter()
            .any(|title| title.starts_with("<script>alert(1)</script>\n"))
    );
    assert!(titles.iter().all(|title| title.len() < 2_000));
}

#[test]
fn the_script_measures_as_we_do() {
    for constant in [
        format!("CHARACTER = {CHARACTER_PIXELS},"),
        format!("PADDING = {PADDING_PIXELS},"),
        format!("MIN_CHARACTERS = {MIN_CHARACTERS},"),
        format!("THIN = {THIN_PIXELS},"),
        format!("MARGIN = {MARGIN},"),
    ] {
        assert!(SCRIPT.contains(&constant), "{constant}");
    }
}

#[test]
fn the_script_can_be_embedded() {
    assert!(!SCRIPT.contains("]]>"));
    assert!(!STYLE.contains(['<', '&']));
}

#[test]
fn deep_and_wide_profiles_are_bounded() {
    let mut builder: ProfileBuilder = fixtures::builder();
    let process = fixtures::process("deep", 1);
    let long = "deeply::nested::module::with::<impl Trait for Type>::function".repeat(8);
    for leaf in 0..60 {
        let frames = (0..1_200).map(|depth| fixtures::frame(&format!("{long}_{depth}_{}", leaf * depth)));
        builder.add(&process, &"deep".into(), frames, 1);
    }
    let profile = builder.build();
    let svg = render(&profile);
    let document = Document::parse_with_options(&svg, roxmltree::ParsingOptions::default()).unwrap();
    assert!(svg.len() < 25 << 20, "{} bytes", svg.len());
    assert!(bars(&document).len() <= BOUNDS.bars);
    let height: u32 = document.root_element().attribute("height").unwrap().parse().unwrap();
    assert!(height <= BOUNDS.rows * ROW_HEIGHT + 200);
    assert!(text_of(&document, "note").iter().any(|note| note.contains("not drawn")));
}

#[test]
fn long_lines_are_wrapped() {
    assert_eq!(wrapped("one two three", 8), ["one two", "three"]);
    assert_eq!(wrapped("abcdefghij k", 5), ["abcd…", "k"]);
}

proptest! {
    #[test]
    fn bars_lie_within_the_picture(profile in fixtures::any_profile()) {
        prop_assume!(profile.samples() > 0);
        let svg = render(&profile);
        let document = Document::parse(&svg).unwrap();
        let bars = bars(&document);
        prop_assert!(!bars.is_empty());
        for bar in bars {
            let rect = child(bar, "rect").unwrap();
            let percent = |name: &str| rect.attribute(name).unwrap().trim_end_matches('%').parse::<f64>().unwrap();
            let (start, width) = (percent("x"), percent("width"));
            prop_assert!(start >= 0.0 && width > 0.0 && start + width < 100.000_01);
        }
    }
}
