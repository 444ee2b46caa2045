-- Several nodes on one store: where a device is, why a session has ended, and how busy a node is.

ALTER TABLE devices ADD COLUMN node TEXT NOT NULL DEFAULT '';       -- that opened the newest session; empty if that was before this layout
ALTER TABLE ended ADD COLUMN code INTEGER NOT NULL DEFAULT 15;      -- what the session is told: 15 if it was kicked, 14 if it was taken over
ALTER TABLE leases ADD COLUMN load INTEGER NOT NULL DEFAULT 0;      -- connections
