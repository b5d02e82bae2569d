-- One row per flight out of New York: what is known two hours before its scheduled departure, and whether
-- it then arrived half an hour late or more. `late` is NULL for a flight without an arrival delay on record:
-- it has not arrived yet, or was cancelled or diverted. Such a row is unlabeled, and no filter drops it here.
--
-- How the query stays honest about time:
--   * Every event carries the minute at which it became known (whole minutes of UTC since the start of
--     2013), every flight the minute at which the question about it is asked, and nothing is used that
--     became known after that minute.
--   * The future appears in one form only: the published schedule, to which the tail number is taken to
--     belong (aircraft are assigned in advance; the data do not show a change at short notice).
--   * Averages are quotients of sums of whole numbers and the last ORDER BY is total, so the result
--     does not depend on the number of threads.
--   * Two decimals are ROUND(100 * x) / 100: engines break the ties of ROUND(x, 2) in different ways.

WITH
-- The parameters: how late is "late", how long before departure the question is asked, and for how long
-- a flight that has not left counts as waiting. The clock's tick is how finely running counts are kept.
settings AS (
  SELECT 30 AS minutes_late, 120 AS minutes_ahead, 240 AS longest_wait, 10 AS tick
),

-- The schedule and the outcome, with the hhmm clock times as minutes after midnight. Known in time:
-- all but the outcome (dep_delay, arr_delay, air_time and the two actual clock times), which is NULL
-- until it happens.
schedule AS (
  SELECT
    f.carrier, f.flight, f.origin, f.dest, f.tailnum, f.distance, f.hour,
    make_timestamp(f.year, f.month, f.day, f.hour, f.minute, 0) AS scheduled_departure,
    CAST(DATE_DIFF('minute', TIMESTAMP '2013-01-01 00:00:00', f.time_hour) + f.minute AS INTEGER) AS scheduled,
    CAST(60 * f.hour + f.minute AS INTEGER) AS departure_clock,
    CAST(f.sched_arr_time - 40 * FLOOR(f.sched_arr_time / 100) AS INTEGER) AS arrival_clock,
    CAST(f.dep_time - 40 * FLOOR(f.dep_time / 100) AS INTEGER) AS actual_departure_clock,
    CAST(f.arr_time - 40 * FLOOR(f.arr_time / 100) AS INTEGER) AS actual_arrival_clock,
    CAST(f.dep_delay AS INTEGER) AS dep_delay,
    CAST(f.arr_delay AS INTEGER) AS arr_delay,
    CAST(f.air_time AS INTEGER) AS air_time,
    -- Minutes by which the destination's clock is ahead of New York's. Where there is no summer time
    -- (dst is not 'A'), New York's own distance from UTC on the day counts. Unknown for a few airports.
    CAST(60 * a.tz - CASE
      WHEN a.dst = 'A' THEN -300
      ELSE DATE_DIFF('minute', f.time_hour, make_timestamp(f.year, f.month, f.day, f.hour, 0, 0))
    END AS INTEGER) AS clock_ahead
  FROM flights AS f
  LEFT JOIN airports AS a ON a.faa = f.dest
),

-- When each event became known: a departure when the aircraft left, an arrival when it was at the gate.
-- Where the destination's clock is unknown, the arrival is put four hours after the time in the air,
-- rather too late than too early, and the scheduled duration is estimated from the distance.
timed AS (
  SELECT
    schedule.*,
    scheduled - minutes_ahead AS asked,
    scheduled + dep_delay AS departed,
    CASE
      WHEN arr_delay IS NULL THEN NULL
      WHEN clock_ahead IS NULL THEN scheduled + dep_delay + air_time + 240
      ELSE scheduled + dep_delay
        + GREATEST(air_time, MOD(actual_arrival_clock - actual_departure_clock - clock_ahead + 2880, 1440))
    END AS arrived,
    CASE
      WHEN clock_ahead IS NULL THEN 60 + CAST(FLOOR(distance / 7.5) AS INTEGER)
      ELSE MOD(arrival_clock - departure_clock - clock_ahead + 2880, 1440)
    END AS duration,
    arr_delay >= minutes_late AS late,
    longest_wait,
    tick
  FROM schedule
  CROSS JOIN settings
),

-- The same aircraft's previous flight out of New York by schedule. Its outcome comes along with the
-- minute it became known, and is only looked at through the next step.
aircraft AS (
  SELECT
    timed.*,
    LAG(scheduled) OVER legs AS prev_scheduled,
    LAG(duration) OVER legs AS prev_duration,
    LAG(departed) OVER legs AS prev_departed,
    LAG(dep_delay) OVER legs AS prev_dep_delay,
    LAG(arrived) OVER legs AS prev_arrived,
    LAG(arr_delay) OVER legs AS prev_arr_delay
  FROM timed
  WINDOW legs AS (PARTITION BY tailnum ORDER BY scheduled, carrier, flight)
),

-- What was known of that previous flight when the question is asked: its arrival delay if it had
-- arrived, else its departure delay (or more, if it should have arrived by now) if it had left, else the
-- minutes it had been waiting so far. Nothing is said after three days or without a tail number.
rotation AS (
  SELECT
    carrier, flight, origin, dest, tailnum, hour, scheduled_departure, departure_clock, late,
    scheduled, asked,
    asked - MOD(asked, tick) AS asked_tick,
    CAST(FLOOR(asked / 60.0) AS INTEGER) AS asked_hour,
    scheduled - prev_scheduled AS prev_gap,
    scheduled - prev_scheduled - 2 * prev_duration AS prev_planned_slack,
    CASE
      WHEN prev_arrived <= asked THEN prev_arr_delay
      WHEN prev_departed <= asked THEN GREATEST(prev_dep_delay, asked - prev_scheduled - prev_duration)
      ELSE GREATEST(asked - prev_scheduled, 0)
    END AS prev_lateness,
    CASE WHEN prev_arrived <= asked THEN prev_arr_delay - prev_dep_delay END AS prev_en_route,
    tailnum IS NOT NULL AND scheduled - prev_scheduled <= 4320 AS has_prev
  FROM aircraft
),

-- Everything that happens, as one narrow stream on a clock that ticks every ten minutes: events are
-- moved on to the next tick and questions back to the last one, so an event never counts too early.
-- A flight waits from its scheduled departure until it leaves or has waited for the longest time
-- allowed, whichever comes first; that a flight was cancelled is never used. The questions are rows of
-- the stream as well, so that the windows below have a row to be read at.
happenings AS (
  SELECT
    carrier, origin, dest, scheduled + MOD(tick - MOD(scheduled, tick), tick) AS at_tick,
    1 AS scheduled_n,
    CASE WHEN departed <= scheduled THEN 0 ELSE 1 END AS waiting_n,
    CASE WHEN departed <= scheduled THEN 0 ELSE scheduled END AS waiting_since,
    0 AS departed_n, 0 AS departed_delay, 0 AS arrived_n, 0 AS arrived_delay, 0 AS en_route
  FROM timed
  UNION ALL
  SELECT
    carrier, origin, dest, departed + MOD(tick - MOD(departed, tick), tick),
    0,
    CASE WHEN dep_delay > 0 AND dep_delay < longest_wait THEN -1 ELSE 0 END,
    CASE WHEN dep_delay > 0 AND dep_delay < longest_wait THEN -scheduled ELSE 0 END,
    1, dep_delay, 0, 0, 0
  FROM timed
  WHERE departed IS NOT NULL
  UNION ALL
  SELECT
    carrier, origin, dest, scheduled + longest_wait + MOD(tick - MOD(scheduled + longest_wait, tick), tick),
    0, -1, -scheduled, 0, 0, 0, 0, 0
  FROM timed
  WHERE departed IS NULL OR dep_delay >= longest_wait
  UNION ALL
  SELECT
    carrier, origin, dest, arrived + MOD(tick - MOD(arrived, tick), tick),
    0, 0, 0, 0, 0, 1, arr_delay, arr_delay - dep_delay
  FROM timed
  WHERE arrived IS NOT NULL
  UNION ALL
  SELECT carrier, origin, dest, asked - MOD(asked, tick), 0, 0, 0, 0, 0, 0, 0, 0
  FROM timed
),

-- The stream added up per tick, for the carrier at the airport, the airport, the carrier, the city
-- (all three airports) and the destination. Known in time by the tick each row carries.
per_carrier_airport AS (
  SELECT
    carrier, origin, at_tick,
    SUM(scheduled_n) AS scheduled_n, SUM(waiting_n) AS waiting_n, SUM(waiting_since) AS waiting_since,
    SUM(departed_n) AS departed_n, SUM(departed_delay) AS departed_delay,
    SUM(arrived_n) AS arrived_n, SUM(arrived_delay) AS arrived_delay, SUM(en_route) AS en_route
  FROM happenings
  GROUP BY carrier, origin, at_tick
),
per_airport AS (
  SELECT origin, at_tick, SUM(scheduled_n) AS scheduled_n, SUM(waiting_n) AS waiting_n
  FROM per_carrier_airport
  GROUP BY origin, at_tick
),
per_carrier AS (
  SELECT
    carrier, at_tick, SUM(waiting_n) AS waiting_n, SUM(waiting_since) AS waiting_since,
    SUM(departed_n) AS departed_n, SUM(departed_delay) AS departed_delay,
    SUM(arrived_n) AS arrived_n, SUM(arrived_delay) AS arrived_delay
  FROM per_carrier_airport
  GROUP BY carrier, at_tick
),
per_city AS (
  SELECT
    at_tick, SUM(scheduled_n) AS scheduled_n, SUM(waiting_n) AS waiting_n,
    SUM(arrived_n) AS arrived_n, SUM(arrived_delay) AS arrived_delay, SUM(en_route) AS en_route
  FROM per_carrier_airport
  GROUP BY at_tick
),
per_destination AS (
  SELECT dest, at_tick, SUM(waiting_n) AS waiting_n, SUM(arrived_n) AS arrived_n, SUM(en_route) AS en_route
  FROM happenings
  GROUP BY dest, at_tick
),

-- The city at each tick: flights waiting, delays of those that arrived in the last six hours. Frames end
-- at the tick itself, so they hold what was known by then; the one looking ahead counts the schedule.
city_now AS (
  SELECT
    at_tick,
    SUM(waiting_n) OVER so_far AS waiting,
    SUM(scheduled_n) OVER next_two_hours AS scheduled_ahead,
    SUM(arrived_delay) OVER six_hours / NULLIF(SUM(arrived_n) OVER six_hours, 0) AS arrival_delay,
    SUM(en_route) OVER six_hours / NULLIF(SUM(arrived_n) OVER six_hours, 0) AS en_route
  FROM per_city
  WINDOW
    so_far AS (ORDER BY at_tick RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW),
    six_hours AS (ORDER BY at_tick RANGE BETWEEN 359 PRECEDING AND CURRENT ROW),
    next_two_hours AS (ORDER BY at_tick RANGE BETWEEN 1 FOLLOWING AND 120 FOLLOWING)
),

-- The airport at each tick: flights waiting (frame ends at the tick), and how many the schedule has in
-- the next two hours and around the departure in question (schedule only).
airport_now AS (
  SELECT
    origin, at_tick,
    SUM(waiting_n) OVER so_far AS waiting,
    SUM(scheduled_n) OVER next_two_hours AS scheduled_ahead,
    SUM(scheduled_n) OVER around_departure AS scheduled_around
  FROM per_airport
  WINDOW
    so_far AS (PARTITION BY origin ORDER BY at_tick RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW),
    next_two_hours AS (PARTITION BY origin ORDER BY at_tick RANGE BETWEEN 1 FOLLOWING AND 120 FOLLOWING),
    around_departure AS (PARTITION BY origin ORDER BY at_tick RANGE BETWEEN 90 FOLLOWING AND 150 FOLLOWING)
),

-- The destination at each tick: flights still waiting to go there, and the delay gained on the way by
-- those that got there in the last six hours. Frames end at the tick.
destination_now AS (
  SELECT
    dest, at_tick,
    SUM(waiting_n) OVER so_far AS waiting,
    SUM(en_route) OVER six_hours / NULLIF(SUM(arrived_n) OVER six_hours, 0) AS en_route
  FROM per_destination
  WINDOW
    so_far AS (PARTITION BY dest ORDER BY at_tick RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW),
    six_hours AS (PARTITION BY dest ORDER BY at_tick RANGE BETWEEN 359 PRECEDING AND CURRENT ROW)
),

-- The carrier at the airport at each tick: departures of the last hour and the last four hours, and
-- those still waiting with the minutes they have waited so far. Frames end at the tick.
carrier_airport_now AS (
  SELECT
    carrier, origin, at_tick,
    SUM(waiting_n) OVER so_far AS waiting,
    at_tick * SUM(waiting_n) OVER so_far - SUM(waiting_since) OVER so_far AS waited,
    SUM(departed_n) OVER one_hour AS departed_1h,
    SUM(departed_delay) OVER one_hour AS delay_1h,
    SUM(departed_n) OVER four_hours AS departed_4h,
    SUM(departed_delay) OVER four_hours AS delay_4h,
    SUM(en_route) OVER six_hours / NULLIF(SUM(arrived_n) OVER six_hours, 0) AS en_route
  FROM per_carrier_airport
  WINDOW
    so_far AS (PARTITION BY carrier, origin ORDER BY at_tick RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW),
    one_hour AS (PARTITION BY carrier, origin ORDER BY at_tick RANGE BETWEEN 59 PRECEDING AND CURRENT ROW),
    four_hours AS (PARTITION BY carrier, origin ORDER BY at_tick RANGE BETWEEN 239 PRECEDING AND CURRENT ROW),
    six_hours AS (PARTITION BY carrier, origin ORDER BY at_tick RANGE BETWEEN 359 PRECEDING AND CURRENT ROW)
),

-- The same for the carrier at all three airports, with its arrivals of the last six hours. Frames end
-- at the tick.
carrier_now AS (
  SELECT
    carrier, at_tick,
    SUM(waiting_n) OVER so_far AS waiting,
    at_tick * SUM(waiting_n) OVER so_far - SUM(waiting_since) OVER so_far AS waited,
    SUM(departed_n) OVER one_hour AS departed_1h,
    SUM(departed_delay) OVER one_hour AS delay_1h,
    SUM(departed_n) OVER four_hours AS departed_4h,
    SUM(departed_delay) OVER four_hours AS delay_4h,
    SUM(arrived_delay) OVER six_hours / NULLIF(SUM(arrived_n) OVER six_hours, 0) AS arrival_delay
  FROM per_carrier
  WINDOW
    so_far AS (PARTITION BY carrier ORDER BY at_tick RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW),
    one_hour AS (PARTITION BY carrier ORDER BY at_tick RANGE BETWEEN 59 PRECEDING AND CURRENT ROW),
    four_hours AS (PARTITION BY carrier ORDER BY at_tick RANGE BETWEEN 239 PRECEDING AND CURRENT ROW),
    six_hours AS (PARTITION BY carrier ORDER BY at_tick RANGE BETWEEN 359 PRECEDING AND CURRENT ROW)
),

-- Arrival delays of the last weeks, for the same flight number, for the carrier at the airport in the
-- same hour of the day, and for the carrier to the destination in that hour. Arrivals and questions are
-- ordered by the minute they became known or are asked, and each frame ends at the question.
arrivals_and_questions AS (
  SELECT carrier, flight, origin, dest, hour, scheduled, arrived AS at_minute, 0 AS is_question, 1 AS n, arr_delay AS delay
  FROM timed
  WHERE arrived IS NOT NULL
  UNION ALL
  SELECT carrier, flight, origin, dest, hour, scheduled, asked, 1, 0, 0
  FROM timed
),
past_weeks AS (
  SELECT
    carrier, flight, scheduled, is_question,
    SUM(delay) OVER same_flight / NULLIF(SUM(n) OVER same_flight, 0) AS flight_delay,
    SUM(delay) OVER same_hour / NULLIF(SUM(n) OVER same_hour, 0) AS hour_delay,
    SUM(delay) OVER same_route / NULLIF(SUM(n) OVER same_route, 0) AS route_delay
  FROM arrivals_and_questions
  WINDOW
    same_flight AS (PARTITION BY carrier, flight, origin ORDER BY at_minute RANGE BETWEEN 40319 PRECEDING AND CURRENT ROW),
    same_hour AS (PARTITION BY carrier, origin, hour ORDER BY at_minute RANGE BETWEEN 10079 PRECEDING AND CURRENT ROW),
    same_route AS (PARTITION BY carrier, dest, hour ORDER BY at_minute RANGE BETWEEN 40319 PRECEDING AND CURRENT ROW)
),

-- Weather reports with their changes over three hours. The report filed under an hour can be as late as
-- minute 51 of it, so it counts as known when that hour is over. A wind above 200 mph is a slip.
weather_reports AS (
  SELECT
    origin,
    CAST(FLOOR(DATE_DIFF('minute', TIMESTAMP '2013-01-01 00:00:00', time_hour) / 60.0) AS INTEGER) + 1 AS known_hour,
    temp, dewp, humid, wind_dir, CASE WHEN wind_speed <= 200 THEN wind_speed END AS wind_speed, pressure, visib
  FROM weather
),
weather_then AS (
  SELECT
    weather_reports.*,
    humid - FIRST_VALUE(humid) OVER three_hours AS humid_change,
    pressure - FIRST_VALUE(pressure) OVER three_hours AS pressure_change,
    MIN(visib) OVER three_hours AS lowest_visib
  FROM weather_reports
  WINDOW three_hours AS (PARTITION BY origin ORDER BY known_hour RANGE BETWEEN 3 PRECEDING AND CURRENT ROW)
),

-- For every hour in which a question is asked, the last report known by then: the hours of the reports
-- carried forward, as reports are missing now and then.
last_report AS (
  SELECT origin, asked_hour, MAX(report_hour) AS report_hour
  FROM (
    SELECT origin, asked_hour, MAX(known_hour) OVER (PARTITION BY origin ORDER BY asked_hour) AS report_hour
    FROM (
      SELECT origin, known_hour AS asked_hour, known_hour FROM weather_reports
      UNION ALL
      SELECT DISTINCT origin, asked_hour, CAST(NULL AS INTEGER) FROM rotation
    ) AS hours
  ) AS carried_forward
  GROUP BY origin, asked_hour
)

-- Everything put together as of the moment of asking. Reports more than six hours old are not used.
SELECT
  t.carrier || '-' || CAST(t.flight AS VARCHAR) || '-' || t.origin || '-'
    || CAST(CAST(t.scheduled_departure AS DATE) AS VARCHAR) AS flight_id,
  t.scheduled_departure,
  t.late,
  t.origin,
  t.dest,
  t.carrier,
  t.departure_clock AS departure_minute,
  CAST(MOD(DATE_DIFF('day', TIMESTAMP '2012-12-31 00:00:00', t.scheduled_departure), 7) + 1 AS INTEGER) AS weekday,
  CAST(p.year AS INTEGER) AS plane_built,
  CAST(p.seats AS INTEGER) AS plane_seats,
  CASE WHEN t.has_prev THEN t.prev_gap END AS prev_leg_gap,
  CASE WHEN t.has_prev THEN t.prev_planned_slack END AS prev_leg_planned_slack,
  CASE WHEN t.has_prev THEN t.prev_planned_slack - t.prev_lateness END AS prev_leg_slack,
  CASE WHEN t.has_prev THEN t.prev_lateness END AS prev_leg_lateness,
  CASE WHEN t.has_prev THEN t.prev_en_route END AS prev_leg_en_route,
  CAST(city.waiting AS INTEGER) AS city_waiting,
  CAST(city.scheduled_ahead AS INTEGER) AS city_scheduled_ahead,
  CAST(ROUND(100 * city.arrival_delay) / 100 AS REAL) AS city_arrival_delay,
  CAST(ROUND(100 * city.en_route) / 100 AS REAL) AS city_en_route,
  CAST(ap.waiting AS INTEGER) AS origin_waiting,
  CAST(ap.scheduled_ahead AS INTEGER) AS origin_scheduled_ahead,
  CAST(ap.scheduled_around AS INTEGER) AS origin_scheduled_around,
  CAST(de.waiting AS INTEGER) AS dest_waiting,
  CAST(ROUND(100 * de.en_route) / 100 AS REAL) AS dest_en_route,
  CAST(ROUND(100 * ((ca.delay_1h + ca.waited) / NULLIF(ca.departed_1h + ca.waiting, 0))) / 100 AS REAL) AS carrier_origin_delay_1h,
  CAST(ROUND(100 * ((ca.delay_4h + ca.waited) / NULLIF(ca.departed_4h + ca.waiting, 0))) / 100 AS REAL) AS carrier_origin_delay_4h,
  CAST(ROUND(100 * ca.en_route) / 100 AS REAL) AS carrier_origin_en_route,
  CAST(ROUND(100 * ((cn.delay_1h + cn.waited) / NULLIF(cn.departed_1h + cn.waiting, 0))) / 100 AS REAL) AS carrier_delay_1h,
  CAST(ROUND(100 * ((cn.delay_4h + cn.waited) / NULLIF(cn.departed_4h + cn.waiting, 0))) / 100 AS REAL) AS carrier_delay_4h,
  CAST(ROUND(100 * (cn.waited / NULLIF(cn.waiting, 0))) / 100 AS REAL) AS carrier_wait,
  CAST(ROUND(100 * cn.arrival_delay) / 100 AS REAL) AS carrier_arrival_delay,
  CAST(ROUND(100 * pw.flight_delay) / 100 AS REAL) AS flight_delay_28d,
  CAST(ROUND(100 * pw.hour_delay) / 100 AS REAL) AS carrier_hour_delay_7d,
  CAST(ROUND(100 * pw.route_delay) / 100 AS REAL) AS route_hour_delay_28d,
  CAST(w.temp AS REAL) AS temperature,
  CAST(w.dewp AS REAL) AS dew_point,
  CAST(ROUND(100 * w.humid_change) / 100 AS REAL) AS humidity_change_3h,
  CAST(w.pressure AS REAL) AS pressure,
  CAST(ROUND(100 * w.pressure_change) / 100 AS REAL) AS pressure_change_3h,
  CAST(w.wind_dir AS INTEGER) AS wind_direction,
  CAST(ROUND(100 * w.wind_speed) / 100 AS REAL) AS wind_speed,
  CAST(w.visib AS REAL) AS visibility,
  CAST(w.lowest_visib AS REAL) AS visibility_lowest_3h
FROM rotation AS t
LEFT JOIN planes AS p ON p.tailnum = t.tailnum
LEFT JOIN city_now AS city ON city.at_tick = t.asked_tick
LEFT JOIN airport_now AS ap ON ap.origin = t.origin AND ap.at_tick = t.asked_tick
LEFT JOIN destination_now AS de ON de.dest = t.dest AND de.at_tick = t.asked_tick
LEFT JOIN carrier_airport_now AS ca ON ca.carrier = t.carrier AND ca.origin = t.origin AND ca.at_tick = t.asked_tick
LEFT JOIN carrier_now AS cn ON cn.carrier = t.carrier AND cn.at_tick = t.asked_tick
LEFT JOIN past_weeks AS pw
  ON pw.carrier = t.carrier AND pw.flight = t.flight AND pw.scheduled = t.scheduled AND pw.is_question = 1
LEFT JOIN last_report AS lr ON lr.origin = t.origin AND lr.asked_hour = t.asked_hour
LEFT JOIN weather_then AS w
  ON w.origin = lr.origin AND w.known_hour = lr.report_hour AND w.known_hour > t.asked_hour - 6
ORDER BY t.scheduled_departure, flight_id
