//! The picture of a comparison as an XML reader sees it.

use roxmltree::{Document, Node as Element};

use super::*;
use crate::{
    Profile,
    compare::{Comparer, Measure, Scope, Settings, Side},
    fixtures,
};

fn render(comparison: &Comparison) -> String {
    let mut out = Vec::new();
    write_difference(comparison, "web (pid 7)", &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn text_of<'a>(document: &'a Document<'a>, class: &str) -> Vec<&'a str> {
    let with_class = document
        .descendants()
        .filter(|node| node.attribute("class") == Some(class));
    with_class.filter_map(|node| node.text()).collect()
}

/// Tooltip, style and width in percent of each bar.
fn bars<'a>(document: &'a Document<'a>) -> Vec<(&'a str, &'a str, f64)> {
    let plot = document
        .descendants()
        .find(|node| node.attribute("class") == Some("plot"))
        .unwrap();
    let bar = |group: Element<'a, 'a>| {
        let child = |name: &str| group.children().find(|node| node.tag_name().name() == name).unwrap();
        let rect = child("rect");
        let width = rect.attribute("width").unwrap().trim_end_matches('%').parse().unwrap();
        (child("title").text().unwrap(), rect.attribute("class").unwrap(), width)
    };
    plot.children().filter(Element::is_element).map(bar).collect()
}

#[test]
fn width_is_after_and_colour_is_what_changed() {
    let svg = render(&fixtures::comparison());
    let document = Document::parse(&svg).unwrap();
    assert_eq!(text_of(&document, "title"), ["web (pid 7): what changed"]);
    let bars = bars(&document);
    let bar = |name: &str| {
        *bars
            .iter()
            .find(|(title, ..)| title.lines().next() == Some(name))
            .unwrap()
    };
    assert_eq!(bar("web (pid 7)").2, 100.0);
    let (title, style, width) = bar("same");
    assert!(style.starts_with('z') && (width - 62.5).abs() < 1e-6, "{style} {width}");
    assert!(
        title.contains("before 50.00 % of a CPU, after 50.00 % of a CPU; no significant change"),
        "{title}"
    );
    let (title, style, width) = bar("fresh");
    assert!(style == "g3" && (width - 37.5).abs() < 1e-6, "{style} {width}");
    assert!(
        title.contains("before 0.00 % of a CPU, after 30.00 % of a CPU; grew: +"),
        "{title}"
    );
    assert!(title.contains("Python in handlers"), "{title}");
    // What is gone has no width; only where it begins is told.
    assert!(bars.iter().all(|(title, ..)| !title.starts_with("old")));
    assert_eq!(
        text_of(&document, "gone"),
        ["gone: 50.00 % of a CPU before: main → old"]
    );
    let notes = text_of(&document, "note");
    assert!(
        notes[0].contains("grew") && notes[1].starts_with("before: ") && notes[2].starts_with("after: "),
        "{notes:?}"
    );
}

#[test]
fn a_caller_in_doubt_does_not_hide_what_is_gone() {
    let before = fixtures::blocks(
        &[(&["main", "same"], 100), (&["main", "caller", "old", "older"], 100)],
        6,
    );
    let after = fixtures::blocks(&[(&["main", "same"], 100)], 6);
    let mut comparison = compare(&before, &after, Scope::Target);
    let told = |comparison: &Comparison| {
        let svg = render(comparison);
        let document = Document::parse(&svg).unwrap();
        let lines = text_of(&document, "gone").into_iter();
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(told(&comparison), ["gone: 50.00 % of a CPU before: main → caller"]);
    let index = |comparison: &Comparison, name: &str| {
        let is_meant = |node: &DifferenceNode| &*comparison.frames[node.frame as usize].function == name;
        comparison.nodes.iter().position(is_meant).unwrap()
    };
    let caller = index(&comparison, "caller");
    comparison.nodes[caller].total.direction = None;
    assert_eq!(
        told(&comparison),
        ["gone: 50.00 % of a CPU before: main → caller → old"]
    );
    // Nor is what a gone caller called told apart, whoever is in doubt between them.
    comparison.nodes[caller].total.direction = Some(Direction::Shrank);
    let old = index(&comparison, "old");
    comparison.nodes[old].total.direction = None;
    assert_eq!(told(&comparison), ["gone: 50.00 % of a CPU before: main → caller"]);
}

#[test]
fn amounts_beyond_all_measure_are_drawn() {
    let windows = fixtures::blocks(&[(&["main", "a"], 100), (&["main", "b"], 100), (&["other"], 100)], 4);
    let mut comparison = compare(&windows, &windows, Scope::Target);
    for node in &mut comparison.nodes {
        node.total.after = f64::MAX;
    }
    assert!(Document::parse(&render(&comparison)).is_ok());
}

#[test]
fn nothing_significant_is_all_grey() {
    let before = fixtures::blocks(&[(&["main", "a"], 100), (&["main", "b"], 7)], 6);
    let after = fixtures::blocks(&[(&["main", "a"], 99), (&["main", "b"], 9)], 6);
    let svg = render(&compare(&before, &after, Scope::Target));
    let document = Document::parse(&svg).unwrap();
    assert!(
        bars(&document)
            .iter()
            .skip(1)
            .all(|(_, style, _)| style.starts_with('z'))
    );
    assert!(text_of(&document, "note")[0].starts_with("no change found; "));
}

#[test]
fn nothing_after_is_no_picture() {
    let before = fixtures::blocks(&[(&["main", "a"], 100)], 6);
    let comparison = compare(&before, &fixtures::blocks(&[], 6), Scope::Target);
    let result = write_difference(&comparison, "x", Vec::new());
    assert!(matches!(result, Err(RenderError::NoSamples)));
}

#[test]
fn hostile_names_are_text_and_nothing_else() {
    let hostile = fixtures::hostile();
    let windows = vec![hostile; 4];
    for scope in [Scope::Target, Scope::Host] {
        let comparison = compare(&windows, &windows, scope);
        let mut out = Vec::new();
        write_difference(&comparison, "<b>\x1b[31m\u{202e}\"&", &mut out).unwrap();
        let svg = String::from_utf8(out).unwrap();
        assert!(!svg.contains(['\x1b', '\0', '\u{202e}', '\u{ffff}']));
        let document = Document::parse(&svg).unwrap();
        let elements = ["svg", "style", "rect", "text", "g", "title", "script"];
        for node in document.descendants().filter(Element::is_element) {
            assert!(elements.contains(&node.tag_name().name()), "{:?}", node.tag_name());
        }
        assert!(bars(&document).iter().all(|(title, ..)| title.len() < 2_500));
    }
}

fn compare(before: &[Profile], after: &[Profile], scope: Scope) -> Comparison {
    let mut comparer = Comparer::new(Settings {
        measure: Measure::Cores,
        scope,
        level: 0.05,
    });
    for window in before {
        comparer.add(Side::Before, window);
    }
    for window in after {
        comparer.add(Side::After, window);
    }
    comparer.finish()
}
