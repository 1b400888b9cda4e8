-- What is in the tables below is made: types, with their columns, and functions.
-- Each function has its names, without "pg_background_", of which the first one
-- is its C symbol's, its arguments and its result; types are written as the
-- server prints them.
--
-- An update replaces what is there. What it cannot replace, or is not in the
-- tables, it drops before. The server replaces nothing that is not the
-- extension's.

DO LANGUAGE plpgsql $block$
DECLARE
    types CONSTANT text[] := ARRAY[
