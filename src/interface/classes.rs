//! Class names of parameters, held against a model's class table.

use super::nearest::suggestion;
use super::settings::MaskSettings;
use crate::data::classes::Class;

/// Mask value of free space.
pub const FREE: u8 = 0;
/// Mask value of what is neither free space nor an obstacle, or not labelled.
pub const NEITHER: u8 = 127;
/// Mask value of an obstacle.
pub const OBSTACLE: u8 = 255;

/// The published id of a class that a parameter names, by its name or by its id.
///
/// # Errors
/// The model has no such class; the nearest one is named.
pub fn id_of(name: &str, table: &[Class]) -> Result<u8, String> {
    let named = table.iter().find(|c| c.name == name);
    let numbered = || name.parse::<u8>().ok().and_then(|id| table.iter().find(|c| c.id == id));
    named.or_else(numbered).map(|c| c.id).ok_or_else(|| {
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
        chosen[usize::from(id_of(name, table)?)] = true;
    }
    Ok(chosen)
}

/// By published id: the value in the mask. Names of the default lists that the model does not have are passed over, so
/// that the defaults fit every model.
///
/// # Errors
/// The model has no such class, or one class is in both lists (by name in one, by id in the other).
pub fn mask_values(mask: &MaskSettings, table: &[Class]) -> Result<[u8; 256], String> {
    let mut values = [NEITHER; 256];
    let lists =
        [("mask.free_classes", &mask.free_classes, FREE), ("mask.obstacle_classes", &mask.obstacle_classes, OBSTACLE)];
    for (parameter, names, value) in lists {
        let is_default = super::parameters::spec(parameter)
            .is_some_and(|s| s.default.value() == super::value::Value::Strings(names.clone()));
        for name in names {
            match id_of(name, table) {
                Ok(id) if values[usize::from(id)] != NEITHER && values[usize::from(id)] != value => {
                    return Err(format!("{parameter}: {name:?} is free space and an obstacle"));
                }
                Ok(id) => values[usize::from(id)] = value,
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
        assert_eq!(id_of("car", &table), Ok(13));
        assert_eq!(id_of("13", &table), Ok(13));
        assert_eq!(id_of("unlabelled", &table), Ok(255));
        assert!(id_of("cra", &table).expect_err("cra").contains("did you mean car?"));
        assert!(id_of("77", &table).expect_err("77").contains("no class \"77\""));
        assert!(chosen(&[], &table).expect("all").iter().all(|&c| c));
        let some = chosen(&list(&["road", "13"]), &table).expect("two");
        assert_eq!(some.iter().filter(|&&c| c).count(), 2);
        assert!(some[0] && some[13]);
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
