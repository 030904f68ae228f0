//! The fast versions, chosen once at start; the scalar ones are their oracle.
