-- A node that stops sends its clients to others: where they are reached.

ALTER TABLE leases ADD COLUMN clients TEXT NOT NULL DEFAULT '';     -- where clients reach the node; empty if they are not to come
