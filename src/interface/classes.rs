//! Class names of parameters, held against a model's class table.

use super::settings::MaskSettings;
use crate::data::classes::Class;
use crate::nearest::suggestion;

/// Mask value of free space.
pub const FREE: u8 = 0;
/// Mask value of what is neither free space nor an obstacle, or not labelled.
pub const NEITHER: u8 = 127;
/// Mask value of an obstacle.
pub const OBSTACLE: u8 = 255;
/// So many of a model's classes are named in a warning.
const NAMED: usize = 8;

/// The published ids of the classes that a parameter names, by their name or by an id. A name that several classes of the model
/// have means all of them: of two kinds of "car" an obstacle list must not leave one out.
///
/// # Errors
/// The model has no such class; the nearest one is named.
pub fn ids_of(name: &str, table: &[Class]) -> Result<Vec<u8>, String> {
    let named: Vec<u8> = table.iter().filter(|c| c.name == name).map(|c| c.id).collect();
    if !named.is_empty() {
        return Ok(named);
    }
    let numbered = name.parse::<u8>().ok().filter(|id| table.iter().any(|c| c.id == *id));
    numbered.map(|id| vec![id]).ok_or_else(|| {
        if table.is_empty() {
            return format!("the model has no class {name:?} (it answers depth alone)");
        }
        let names = table.iter().map(|c| c.name.as_str());
        let near = suggestion(name, names.clone());
        format!("the model has no class {name:?}{near} (it has {})", names.collect::<Vec<_>>().join(", "))
    })
}

/// By published id: whether it is chosen. No names: all are.
///
/// # Errors
/// The model has no such class.
pub fn chosen(names: &[String], table: &[Class]) -> Result<[bool; 256], String> {
    let mut chosen = [names.is_empty(); 256];
    for name in names {
        for id in ids_of(name, table)? {
            chosen[usize::from(id)] = true;
        }
    }
    Ok(chosen)
}

/// The lists of the mask, each with its parameter's name and its value in the mask.
fn lists(mask: &MaskSettings) -> [(&'static str, &[String], u8); 2] {
    [("mask.free_classes", &mask.free_classes, FREE), ("mask.obstacle_classes", &mask.obstacle_classes, OBSTACLE)]
}

/// Whether a list is the one that a parameter has where nothing is said.
fn is_default(parameter: &str, names: &[String]) -> bool {
    super::parameters::spec(parameter)
        .is_some_and(|s| s.default.value() == super::value::Value::Strings(names.to_vec()))
}

/// What to warn of when a model is loaded: default lists of the mask of which it has no class at all, so that nothing is ever free
/// space, or ever an obstacle. A list that was asked for has to fit the model ([`mask_values`]).
pub fn idle_defaults(mask: &MaskSettings, table: &[Class]) -> Vec<String> {
    if table.is_empty() {
        return Vec::new();
    }
    let mut known: Vec<&str> = table.iter().take(NAMED).map(|c| c.name.as_str()).collect();
    if table.len() > NAMED {
        known.push("...");
    }
    let idle = |(parameter, names, value): (&str, &[String], u8)| {
        let is_idle = !names.is_empty() && names.iter().all(|name| ids_of(name, table).is_err());
        (is_idle && is_default(parameter, names)).then(|| {
            format!(
                "{parameter}: the model has none of the default's classes ({}), so no pixel of the mask is {value}; set it to \
                 classes of the model, which has {}",
                names.join(", "),
                known.join(", ")
            )
        })
    };
    lists(mask).into_iter().filter_map(idle).collect()
}

/// By published id: the value in the mask. Names of the default lists that the model does not have are passed over, so
/// that the defaults fit every model; [`idle_defaults`] tells where nothing is left of one.
///
/// # Errors
/// The model has no such class, or one class is in both lists (by name in one, by id in the other).
pub fn mask_values(mask: &MaskSettings, table: &[Class]) -> Result<[u8; 256], String> {
    let mut values = [NEITHER; 256];
    for (parameter, names, value) in lists(mask) {
        let is_default = is_default(parameter, names);
        for name in names {
            match ids_of(name, table) {
                Ok(ids) => {
                    for id in ids.into_iter().map(usize::from) {
                        if values[id] != NEITHER && values[id] != value {
                            return Err(format!("{parameter}: {name:?} is free space and an obstacle"));
                        }
                        values[id] = value;
                    }
                }
                Err(_) if is_default => {}
                Err(why) => return Err(format!("{parameter}: {why}")),
            }
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::classes::cityscapes;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|s| s.to_string()).collect()
    }

    #[test]
    fn names_and_ids_are_found_and_others_named() {
        let table = cityscapes();
        assert_eq!(ids_of("car", &table), Ok(vec![13]));
        assert_eq!(ids_of("13", &table), Ok(vec![13]));
        assert_eq!(ids_of("unlabelled", &table), Ok(vec![255]));
        assert!(ids_of("cra", &table).expect_err("cra").contains("did you mean car?"));
        assert!(ids_of("77", &table).expect_err("77").contains("no class \"77\""));
        assert!(chosen(&[], &table).expect("all").iter().all(|&c| c));
        let some = chosen(&list(&["road", "13"]), &table).expect("two");
        assert_eq!(some.iter().filter(|&&c| c).count(), 2);
        assert!(some[0] && some[13]);
    }

    #[test]
    fn a_name_that_several_classes_have_means_all_of_them() {
        let class = |id, name: &str| Class { id, name: name.into(), color: [0; 3] };
        let table = [class(3, "road"), class(7, "car"), class(40, "car")];
        assert_eq!(ids_of("car", &table), Ok(vec![7, 40]));
        assert_eq!(ids_of("40", &table), Ok(vec![40]));
        let all = chosen(&list(&["car"]), &table).expect("two");
        assert!(all[7] && all[40] && !all[3]);
        let mask = crate::interface::ParameterSet::default().camera(0).mask;
        let values = mask_values(&mask, &table).expect("the default");
        assert_eq!((values[3], values[7], values[40]), (FREE, OBSTACLE, OBSTACLE));
        let both = MaskSettings { free_classes: list(&["40"]), ..mask };
        assert!(mask_values(&both, &table).expect_err("one of the cars").contains("free space and an obstacle"));
    }

    #[test]
    fn default_lists_that_a_model_has_nothing_of_are_told() {
        let mask = crate::interface::ParameterSet::default().camera(0).mask;
        assert!(idle_defaults(&mask, &cityscapes()).is_empty());
        assert!(idle_defaults(&mask, &[]).is_empty(), "depth alone has no mask");
        let other: Vec<_> = (0..21).map(|id| Class { id, name: format!("thing {id}"), color: [0; 3] }).collect();
        let [free, obstacles] = &idle_defaults(&mask, &other)[..] else { panic!("two lists") };
        assert!(
            free.starts_with("mask.free_classes: ") && free.contains("(road), so no pixel of the mask is 0"),
            "{free}"
        );
        assert!(obstacles.starts_with("mask.obstacle_classes: ") && obstacles.contains("is 255"), "{obstacles}");
        assert!(obstacles
            .ends_with("which has thing 0, thing 1, thing 2, thing 3, thing 4, thing 5, thing 6, thing 7, ..."));
        // One name of a list is enough, and none is what was asked for.
        let one = [other.clone(), vec![Class { id: 50, name: "train".into(), color: [0; 3] }]].concat();
        assert_eq!(idle_defaults(&mask, &one).len(), 1);
        let none = MaskSettings { free_classes: vec![], obstacle_classes: list(&["3"]) };
        assert!(idle_defaults(&none, &other).is_empty());
    }

    #[test]
    fn the_mask_has_three_values() {
        let table = cityscapes();
        let mask = crate::interface::ParameterSet::default().camera(0).mask;
        let values = mask_values(&mask, &table).expect("the default");
        assert_eq!((values[0], values[13], values[2], values[255]), (FREE, OBSTACLE, NEITHER, NEITHER));
        // The defaults fit a model without these classes; what was asked for must be there.
        let small = vec![table[0].clone(), table[2].clone()];
        assert_eq!(mask_values(&mask, &small).expect("the default")[0], FREE);
        let asked = MaskSettings { free_classes: list(&["sidewalk"]), ..mask.clone() };
        assert!(mask_values(&asked, &small).expect_err("no sidewalk").contains("mask.free_classes: the model has no"));
        let both = MaskSettings { free_classes: list(&["13"]), ..mask };
        assert!(mask_values(&both, &table).expect_err("car").contains("free space and an obstacle"));
    }
}
