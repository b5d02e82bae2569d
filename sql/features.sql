-- Columns that the model adds to a record, each from the other columns of its row, as in
--   SELECT *,
--     prev_leg_slack / NULLIF(prev_leg_gap, 0) AS slack_share
--   FROM record
-- What looks at other rows is a matter of the query of `tables`.
SELECT *
FROM record
