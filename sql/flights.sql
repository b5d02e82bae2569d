-- One row per flight out of New York that has an arrival delay on record, holding only what is
-- known two hours before its scheduled departure; the answer to predict is "30 minutes late or more".
-- All arithmetic on time is done in whole minutes of UTC counted from the start of 2013, and all
-- averages are quotients of whole numbers, so the result does not depend on the number of threads.

WITH
-- The two parameters: how late is "late", and how long before departure the question is asked.
settings AS (
  SELECT 30 AS minutes_late, 120 AS minutes_ahead, 5 AS tick
),

-- The schedule with its outcome and the destination's clock. The tail number counts as part of the
-- schedule: aircraft are assigned in advance (a late change of aircraft is not visible in the data).
schedule AS (
  SELECT
    f.carrier, f.flight, f.origin, f.dest, f.tailnum, f.distance, f.hour, f.minute,
    CAST(f.dep_delay AS INTEGER) AS dep_delay,
    CAST(f.arr_delay AS INTEGER) AS arr_delay,
    CAST(f.air_time AS INTEGER) AS air_time,
    make_timestamp(f.year, f.month, f.day, f.hour, f.minute, 0) AS scheduled_departure,
    CAST(DATE_DIFF('minute', TIMESTAMP '2013-01-01 00:00:00', f.time_hour) + f.minute AS INTEGER) AS scheduled,
    -- Minutes after midnight on the clocks of the two airports, as hhmm turned into minutes.
    CAST(60 * f.hour + f.minute AS INTEGER) AS departure_clock,
    CAST(f.sched_arr_time - 40 * FLOOR(f.sched_arr_time / 100) AS INTEGER) AS arrival_clock,
    CAST(f.dep_time - 40 * FLOOR(f.dep_time / 100) AS INTEGER) AS actual_departure_clock,
    CAST(f.arr_time - 40 * FLOOR(f.arr_time / 100) AS INTEGER) AS actual_arrival_clock,
    -- How far the destination's clock is ahead of New York's; without summer time there (dst = 'N'),
    -- New York's own distance from UTC on that day decides. Unknown for a few airports.
    CAST(60 * a.tz - CASE
      WHEN a.dst = 'A' THEN -300
      ELSE 60 * f.hour - DATE_DIFF('minute', TIMESTAMP '2013-01-01 00:00:00', f.time_hour)
           + DATE_DIFF('minute', TIMESTAMP '2013-01-01 00:00:00', make_timestamp(f.year, f.month, f.day, 0, 0, 0))
    END AS INTEGER) AS clock_ahead
  FROM flights AS f
  LEFT JOIN airports AS a ON a.faa = f.dest
),

-- When each event became known: a departure when it happened, an arrival when it happened (time in the
-- air plus four hours where the destination's clock is unknown: too late rather than too early).
timed AS (
  SELECT
    carrier, flight, origin, dest, tailnum, distance, hour, scheduled_departure, scheduled,
    departure_clock, dep_delay, arr_delay,
    scheduled - settings.minutes_ahead AS asked,
    scheduled + dep_delay AS departed,
    CASE
      WHEN arr_delay IS NULL THEN NULL
      WHEN clock_ahead IS NULL THEN scheduled + dep_delay + air_time + 240
      ELSE scheduled + dep_delay
           + GREATEST(air_time, MOD(actual_arrival_clock - actual_departure_clock - clock_ahead + 2880, 1440))
    END AS arrived,
    -- Scheduled gate-to-gate time; estimated from the distance where the clock is unknown.
    CASE
      WHEN clock_ahead IS NULL THEN 60 + CAST(FLOOR(distance / 7.5) AS INTEGER)
      ELSE MOD(arrival_clock - departure_clock - clock_ahead + 2880, 1440)
    END AS block_minutes,
    arr_delay >= settings.minutes_late AS late, settings.tick
  FROM schedule
  CROSS JOIN settings
),

-- The same aircraft's previous flight out of New York, by schedule.
aircraft AS (
  SELECT
    *,
    LAG(scheduled) OVER legs AS prev_scheduled,
    LAG(departed) OVER legs AS prev_departed,
    LAG(dep_delay) OVER legs AS prev_dep_delay,
    LAG(arrived) OVER legs AS prev_arrived,
    LAG(arr_delay) OVER legs AS prev_arr_delay,
    LAG(block_minutes) OVER legs AS prev_block
  FROM timed
  WINDOW legs AS (PARTITION BY tailnum ORDER BY scheduled, carrier, flight)
),

-- What was known of that previous flight at the moment of asking: its arrival delay if it had landed,
-- else its departure delay if it had left, else the minutes it had been waiting so far.
rotation AS (
  SELECT
    *,
    CASE
      WHEN prev_arrived <= asked THEN prev_arr_delay
      WHEN prev_departed <= asked THEN GREATEST(prev_dep_delay, asked - prev_scheduled - prev_block)
      ELSE GREATEST(asked - prev_scheduled, 0)
    END AS prev_lateness,
    CASE WHEN prev_arrived <= asked THEN prev_arr_delay - prev_dep_delay END AS prev_en_route
  FROM aircraft
),

-- Everything that happens, in one narrow stream. A flight waits from its scheduled departure until it
-- leaves, and for four hours at most: that it was cancelled is never used. The questions are rows of
-- the stream too, so that the windows below can be read off at exactly the moment of asking.
happenings AS (
  SELECT carrier, origin, dest, tick * CAST(CEIL((scheduled) / (1.0 * tick)) AS INTEGER) AS at_minute,
    1 AS scheduled_n,
    CASE WHEN departed <= scheduled THEN 0 ELSE 1 END AS waiting_n,
    CASE WHEN departed <= scheduled THEN 0 ELSE scheduled END AS waiting_since,
    0 AS departed_n, 0 AS departed_delay, 0 AS arrived_n, 0 AS arrived_delay, 0 AS en_route
  FROM timed
  UNION ALL
  SELECT carrier, origin, dest, tick * CAST(CEIL((departed) / (1.0 * tick)) AS INTEGER),
    0,
    CASE WHEN departed > scheduled AND departed < scheduled + 240 THEN -1 ELSE 0 END,
    CASE WHEN departed > scheduled AND departed < scheduled + 240 THEN -scheduled ELSE 0 END,
    1, dep_delay, 0, 0, 0
  FROM timed WHERE departed IS NOT NULL
  UNION ALL
  SELECT carrier, origin, dest, tick * CAST(CEIL((scheduled + 240) / (1.0 * tick)) AS INTEGER), 0, -1, -scheduled, 0, 0, 0, 0, 0
  FROM timed WHERE departed IS NULL OR departed >= scheduled + 240
  UNION ALL
  SELECT carrier, origin, dest, tick * CAST(CEIL((arrived) / (1.0 * tick)) AS INTEGER), 0, 0, 0, 0, 0, 1, arr_delay, arr_delay - dep_delay
  FROM timed WHERE arrived IS NOT NULL
  UNION ALL
  SELECT carrier, origin, dest, tick * CAST(FLOOR(asked / (1.0 * tick)) AS INTEGER), 0, 0, 0, 0, 0, 0, 0, 0
  FROM timed
),

-- The stream added up per minute, for a carrier at an airport ...
by_carrier_airport AS (
  SELECT carrier, origin, at_minute,
    SUM(scheduled_n) AS scheduled_n, SUM(waiting_n) AS waiting_n, SUM(waiting_since) AS waiting_since,
    SUM(departed_n) AS departed_n, SUM(departed_delay) AS departed_delay,
    SUM(arrived_n) AS arrived_n, SUM(arrived_delay) AS arrived_delay, SUM(en_route) AS en_route
  FROM happenings GROUP BY carrier, origin, at_minute
),
by_airport AS (
  SELECT origin, at_minute, SUM(scheduled_n) AS scheduled_n, SUM(waiting_n) AS waiting_n,
    SUM(arrived_n) AS arrived_n, SUM(arrived_delay) AS arrived_delay, SUM(en_route) AS en_route
  FROM by_carrier_airport GROUP BY origin, at_minute
),
by_carrier AS (
  SELECT carrier, at_minute, SUM(waiting_n) AS waiting_n, SUM(waiting_since) AS waiting_since,
    SUM(departed_n) AS departed_n, SUM(departed_delay) AS departed_delay,
    SUM(arrived_n) AS arrived_n, SUM(arrived_delay) AS arrived_delay
  FROM by_carrier_airport GROUP BY carrier, at_minute
),
by_city AS (
  SELECT at_minute, SUM(scheduled_n) AS scheduled_n, SUM(waiting_n) AS waiting_n,
    SUM(arrived_n) AS arrived_n, SUM(arrived_delay) AS arrived_delay, SUM(en_route) AS en_route
  FROM by_airport GROUP BY at_minute
),
by_destination AS (
  SELECT dest, at_minute, SUM(waiting_n) AS waiting_n, SUM(arrived_n) AS arrived_n, SUM(en_route) AS en_route
  FROM happenings GROUP BY dest, at_minute
),

city_now AS (
  SELECT at_minute,
    SUM(waiting_n) OVER so_far AS waiting,
    SUM(en_route) OVER six_hours / NULLIF(SUM(arrived_n) OVER six_hours, 0) AS en_route,
    SUM(arrived_delay) OVER six_hours / NULLIF(SUM(arrived_n) OVER six_hours, 0) AS arrival_delay,
    SUM(scheduled_n) OVER two_hours_ahead AS scheduled_ahead
  FROM by_city
  WINDOW so_far AS (ORDER BY at_minute RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW),
    six_hours AS (ORDER BY at_minute RANGE BETWEEN 359 PRECEDING AND CURRENT ROW),
    two_hours_ahead AS (ORDER BY at_minute RANGE BETWEEN 1 FOLLOWING AND 120 FOLLOWING)
),
airport_now AS (
  SELECT origin, at_minute,
    SUM(waiting_n) OVER so_far AS waiting,
    SUM(scheduled_n) OVER two_hours_ahead AS scheduled_ahead,
    SUM(scheduled_n) OVER around_departure AS scheduled_around
  FROM by_airport
  WINDOW so_far AS (PARTITION BY origin ORDER BY at_minute RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW),
    two_hours_ahead AS (PARTITION BY origin ORDER BY at_minute RANGE BETWEEN 1 FOLLOWING AND 120 FOLLOWING),
    around_departure AS (PARTITION BY origin ORDER BY at_minute RANGE BETWEEN 90 FOLLOWING AND 150 FOLLOWING)
),
destination_now AS (
  SELECT dest, at_minute,
    SUM(waiting_n) OVER so_far AS waiting,
    SUM(en_route) OVER six_hours / NULLIF(SUM(arrived_n) OVER six_hours, 0) AS en_route
  FROM by_destination
  WINDOW so_far AS (PARTITION BY dest ORDER BY at_minute RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW),
    six_hours AS (PARTITION BY dest ORDER BY at_minute RANGE BETWEEN 359 PRECEDING AND CURRENT ROW)
),
carrier_airport_sums AS (
  SELECT carrier, origin, at_minute,
    SUM(waiting_n) OVER so_far AS waiting, at_minute * SUM(waiting_n) OVER so_far - SUM(waiting_since) OVER so_far AS waiting_minutes,
    SUM(departed_n) OVER one_hour AS departed_1h, SUM(departed_delay) OVER one_hour AS delay_1h,
    SUM(departed_n) OVER four_hours AS departed_4h, SUM(departed_delay) OVER four_hours AS delay_4h,
    SUM(en_route) OVER six_hours / NULLIF(SUM(arrived_n) OVER six_hours, 0) AS en_route
  FROM by_carrier_airport
  WINDOW so_far AS (PARTITION BY carrier, origin ORDER BY at_minute RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW),
    one_hour AS (PARTITION BY carrier, origin ORDER BY at_minute RANGE BETWEEN 59 PRECEDING AND CURRENT ROW),
    four_hours AS (PARTITION BY carrier, origin ORDER BY at_minute RANGE BETWEEN 239 PRECEDING AND CURRENT ROW),
    six_hours AS (PARTITION BY carrier, origin ORDER BY at_minute RANGE BETWEEN 359 PRECEDING AND CURRENT ROW)
),
carrier_sums AS (
  SELECT carrier, at_minute,
    SUM(waiting_n) OVER so_far AS waiting, at_minute * SUM(waiting_n) OVER so_far - SUM(waiting_since) OVER so_far AS waiting_minutes,
    SUM(departed_n) OVER one_hour AS departed_1h, SUM(departed_delay) OVER one_hour AS delay_1h,
    SUM(departed_n) OVER four_hours AS departed_4h, SUM(departed_delay) OVER four_hours AS delay_4h,
    SUM(arrived_delay) OVER six_hours / NULLIF(SUM(arrived_n) OVER six_hours, 0) AS arrival_delay
  FROM by_carrier
  WINDOW so_far AS (PARTITION BY carrier ORDER BY at_minute RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW),
    one_hour AS (PARTITION BY carrier ORDER BY at_minute RANGE BETWEEN 59 PRECEDING AND CURRENT ROW),
    four_hours AS (PARTITION BY carrier ORDER BY at_minute RANGE BETWEEN 239 PRECEDING AND CURRENT ROW),
    six_hours AS (PARTITION BY carrier ORDER BY at_minute RANGE BETWEEN 359 PRECEDING AND CURRENT ROW)
),
flight_history AS (
  SELECT carrier, flight, origin, at_minute,
    SUM(arr_delay) OVER four_weeks / NULLIF(SUM(n) OVER four_weeks, 0) AS delay_28d
  FROM (
    SELECT carrier, flight, origin, at_minute, SUM(n) AS n, SUM(arr_delay) AS arr_delay
    FROM (
      SELECT carrier, flight, origin, arrived AS at_minute, 1 AS n, arr_delay FROM timed WHERE arrived IS NOT NULL
      UNION ALL
      SELECT carrier, flight, origin, asked, 0, 0 FROM timed
    ) AS x GROUP BY carrier, flight, origin, at_minute
  ) AS y
  WINDOW four_weeks AS (PARTITION BY carrier, flight, origin ORDER BY at_minute RANGE BETWEEN 40319 PRECEDING AND CURRENT ROW)
),
carrier_hour_history AS (
  SELECT carrier, origin, hour, at_minute,
    SUM(arr_delay) OVER one_week / NULLIF(SUM(n) OVER one_week, 0) AS delay_7d
  FROM (
    SELECT carrier, origin, hour, at_minute, SUM(n) AS n, SUM(arr_delay) AS arr_delay
    FROM (
      SELECT carrier, origin, hour, arrived AS at_minute, 1 AS n, arr_delay FROM timed WHERE arrived IS NOT NULL
      UNION ALL
      SELECT carrier, origin, hour, asked, 0, 0 FROM timed
    ) AS x GROUP BY carrier, origin, hour, at_minute
  ) AS y
  WINDOW one_week AS (PARTITION BY carrier, origin, hour ORDER BY at_minute RANGE BETWEEN 10079 PRECEDING AND CURRENT ROW)
),
route_history AS (
  SELECT dest, carrier, hour, at_minute,
    SUM(arr_delay) OVER four_weeks / NULLIF(SUM(n) OVER four_weeks, 0) AS delay_28d
  FROM (
    SELECT dest, carrier, hour, at_minute, SUM(n) AS n, SUM(arr_delay) AS arr_delay
    FROM (
      SELECT dest, carrier, hour, arrived AS at_minute, 1 AS n, arr_delay FROM timed WHERE arrived IS NOT NULL
      UNION ALL
      SELECT dest, carrier, hour, asked, 0, 0 FROM timed
    ) AS x GROUP BY dest, carrier, hour, at_minute
  ) AS y
  WINDOW four_weeks AS (PARTITION BY dest, carrier, hour ORDER BY at_minute RANGE BETWEEN 40319 PRECEDING AND CURRENT ROW)
),

-- Weather reports. The report filed under an hour can be as late as minute 51 of it, so it counts as
-- known when that hour is over. A wind above 200 mph is a typing error in the source.
weather_reports AS (
  SELECT
    origin,
    CAST(FLOOR(DATE_DIFF('minute', TIMESTAMP '2013-01-01 00:00:00', time_hour) / 60.0) AS INTEGER) + 1 AS known_hour,
    temp, dewp, humid, wind_dir, CASE WHEN wind_speed <= 200 THEN wind_speed END AS wind_speed, pressure, visib
  FROM weather
),
weather_changes AS (
  SELECT
    *,
    humid - FIRST_VALUE(humid) OVER three_hours AS humidity_change,
    pressure - FIRST_VALUE(pressure) OVER three_hours AS pressure_change,
    MIN(visib) OVER three_hours AS lowest_visib
  FROM weather_reports
  WINDOW three_hours AS (PARTITION BY origin ORDER BY known_hour RANGE BETWEEN 3 PRECEDING AND CURRENT ROW)
),

-- For every hour in which a question is asked, the hour of the last report known by then.
last_report AS (
  SELECT origin, hour_asked, MAX(report_hour) AS report_hour
  FROM (
    SELECT origin, hour_asked, MAX(report_hour) OVER (PARTITION BY origin ORDER BY hour_asked) AS report_hour
    FROM (
      SELECT origin, known_hour AS hour_asked, known_hour AS report_hour FROM weather_reports
      UNION ALL
      SELECT DISTINCT origin, CAST(FLOOR(asked / 60.0) AS INTEGER), CAST(NULL AS INTEGER) FROM timed
    ) AS hours
  ) AS carried
  GROUP BY origin, hour_asked
)

SELECT
  t.carrier || '-' || CAST(t.flight AS VARCHAR) || '-' || t.origin || '-' || CAST(CAST(t.scheduled_departure AS DATE) AS VARCHAR) AS flight_id,
  t.scheduled_departure,
  t.late,
  t.origin, t.dest, t.carrier,
  t.departure_clock AS departure_minute,
  CAST(EXTRACT(ISODOW FROM t.scheduled_departure) AS INTEGER) AS weekday,
  CAST(p.year AS INTEGER) AS plane_built,
  CAST(p.seats AS INTEGER) AS plane_seats,
  CASE WHEN t.paired THEN t.scheduled - t.prev_scheduled END AS prev_leg_gap,
  CASE WHEN t.paired THEN t.scheduled - t.prev_scheduled - 2 * t.prev_block END AS prev_leg_planned_slack,
  CASE WHEN t.paired THEN t.scheduled - t.prev_scheduled - 2 * t.prev_block - t.prev_lateness END AS prev_leg_slack,
  CASE WHEN t.paired THEN t.prev_lateness END AS prev_leg_lateness,
  CASE WHEN t.paired THEN t.prev_en_route END AS prev_leg_en_route,
  CAST(city.waiting AS INTEGER) AS city_waiting,
  CAST(city.scheduled_ahead AS INTEGER) AS city_scheduled_ahead,
  CAST(ROUND(city.arrival_delay, 2) AS REAL) AS city_arrival_delay,
  CAST(ROUND(city.en_route, 2) AS REAL) AS city_en_route,
  CAST(apt.waiting AS INTEGER) AS origin_waiting,
  CAST(apt.scheduled_ahead AS INTEGER) AS origin_scheduled_ahead,
  CAST(apt.scheduled_around AS INTEGER) AS origin_scheduled_around,
  CAST(d.waiting AS INTEGER) AS dest_waiting,
  CAST(ROUND(d.en_route, 2) AS REAL) AS dest_en_route,
  CAST(ROUND((ca.delay_1h + ca.waiting_minutes) / NULLIF(ca.departed_1h + ca.waiting, 0), 2) AS REAL) AS carrier_origin_delay_1h,
  CAST(ROUND((ca.delay_4h + ca.waiting_minutes) / NULLIF(ca.departed_4h + ca.waiting, 0), 2) AS REAL) AS carrier_origin_delay_4h,
  CAST(ROUND(ca.en_route, 2) AS REAL) AS carrier_origin_en_route,
  CAST(ROUND((c.delay_1h + c.waiting_minutes) / NULLIF(c.departed_1h + c.waiting, 0), 2) AS REAL) AS carrier_delay_1h,
  CAST(ROUND((c.delay_4h + c.waiting_minutes) / NULLIF(c.departed_4h + c.waiting, 0), 2) AS REAL) AS carrier_delay_4h,
  CAST(ROUND(c.waiting_minutes / NULLIF(c.waiting, 0), 2) AS REAL) AS carrier_wait,
  CAST(ROUND(c.arrival_delay, 2) AS REAL) AS carrier_arrival_delay,
  CAST(ROUND(fh.delay_28d, 2) AS REAL) AS flight_delay_28d,
  CAST(ROUND(ch.delay_7d, 2) AS REAL) AS carrier_hour_delay_7d,
  CAST(ROUND(rh.delay_28d, 2) AS REAL) AS route_hour_delay_28d,
  CAST(w.temp AS REAL) AS temperature,
  CAST(w.dewp AS REAL) AS dew_point,
  CAST(ROUND(w.humidity_change, 2) AS REAL) AS humidity_change_3h,
  CAST(w.pressure AS REAL) AS pressure,
  CAST(ROUND(w.pressure_change, 2) AS REAL) AS pressure_change_3h,
  CAST(w.wind_dir AS INTEGER) AS wind_direction,
  CAST(ROUND(w.wind_speed, 2) AS REAL) AS wind_speed,
  CAST(w.visib AS REAL) AS visibility,
  CAST(w.lowest_visib AS REAL) AS visibility_lowest_3h
FROM (
  SELECT *, tailnum IS NOT NULL AND scheduled - prev_scheduled <= 4320 AS paired,
    tick * CAST(FLOOR(asked / (1.0 * tick)) AS INTEGER) AS asked_tick, CAST(FLOOR(asked / 60.0) AS INTEGER) AS hour_asked
  FROM rotation
  WHERE late IS NOT NULL
) AS t
LEFT JOIN planes AS p ON p.tailnum = t.tailnum
LEFT JOIN city_now AS city ON city.at_minute = t.asked_tick
LEFT JOIN airport_now AS apt ON apt.origin = t.origin AND apt.at_minute = t.asked_tick
LEFT JOIN destination_now AS d ON d.dest = t.dest AND d.at_minute = t.asked_tick
LEFT JOIN carrier_airport_sums AS ca ON ca.carrier = t.carrier AND ca.origin = t.origin AND ca.at_minute = t.asked_tick
LEFT JOIN carrier_sums AS c ON c.carrier = t.carrier AND c.at_minute = t.asked_tick
LEFT JOIN flight_history AS fh ON fh.carrier = t.carrier AND fh.flight = t.flight AND fh.origin = t.origin AND fh.at_minute = t.asked
LEFT JOIN carrier_hour_history AS ch ON ch.carrier = t.carrier AND ch.origin = t.origin AND ch.hour = t.hour AND ch.at_minute = t.asked
LEFT JOIN route_history AS rh ON rh.dest = t.dest AND rh.carrier = t.carrier AND rh.hour = t.hour AND rh.at_minute = t.asked
LEFT JOIN last_report AS lr ON lr.origin = t.origin AND lr.hour_asked = t.hour_asked
LEFT JOIN weather_changes AS w ON w.origin = lr.origin AND w.known_hour = lr.report_hour AND w.known_hour > t.hour_asked - 6
ORDER BY t.scheduled_departure, flight_id
