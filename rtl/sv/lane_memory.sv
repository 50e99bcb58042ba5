// Memory of words of GROUPS x G lanes of W bits, banked by groups, so that a window of lanes that starts at any group is
// written or read in one cycle: the groups that wrap round the end of the word come from address + stride (the next chunk).
//
// write: window of WGROUPS groups starting at group wgroup of word waddr; wmask enables groups of the window
// read : the whole word rotated so that group rgroup is first; rdata one cycle later
// A write and a read per cycle, no reset. Cost: GROUPS memories of DEPTH x G W bits; with GROUPS > 1 a rotator each way.
module lane_memory #(
  parameter [31:0] W = 8, parameter [31:0] G = 16, parameter [31:0] GROUPS = 1, parameter [31:0] WGROUPS = 1,
  parameter [31:0] DEPTH = 256, parameter [31:0] AW = $clog2(DEPTH),
  parameter [31:0] GW = GROUPS > 1 ? $clog2(GROUPS) : 1
) (
  input  logic                  clk,
  input  logic                  wen,
  input  logic [AW-1:0]         waddr,
  input  logic [AW-1:0]         wstride,
  input  logic [GW-1:0]         wgroup,
  input  logic [WGROUPS-1:0]    wmask,
  input  logic [WGROUPS*G*W-1:0] wdata,
  input  logic                  ren,
  input  logic [AW-1:0]         raddr,
  input  logic [AW-1:0]         rstride,
  input  logic [GW-1:0]         rgroup,
  output logic [GROUPS*G*W-1:0] rdata
);
  if (GROUPS == 1) begin : g_one
    logic [G*W-1:0] mem [0:DEPTH-1];
    logic unused;
    assign unused = &{1'b0, wstride, wgroup, rstride, rgroup};
    initial begin
      for (int unsigned i = 0; i < DEPTH; i++) mem[i] = 0;
      rdata = 0;
    end
    always_ff @(posedge clk) begin
      if (wen & wmask[0]) mem[waddr] <= wdata;
      if (ren) rdata <= mem[raddr];
    end
  end else begin : g_many
    logic [GROUPS*G*W-1:0] word;                          // bank order
    logic [GW-1:0]         rgroup_q;
    initial rgroup_q = 0;
    always_ff @(posedge clk) if (ren) rgroup_q <= rgroup;
    for (genvar b = 0; b < GROUPS; b++) begin : g_bank
      logic [G*W-1:0] mem [0:DEPTH-1];
      localparam [31:0] MW = WGROUPS > 1 ? $clog2(WGROUPS) : 1;
      logic [GW-1:0]  index, rindex;                      // which group of the window this bank holds
      logic [AW-1:0]  wa, ra;
      logic [G*W-1:0] q;
      assign index = GW'(b) - wgroup;
      assign wa = b < 32'(wgroup) ? waddr + wstride : waddr;
      assign ra = b < 32'(rgroup) ? raddr + rstride : raddr;
      assign rindex = GW'(b) + rgroup_q;
      assign word[b*G*W +: G*W] = q;
      assign rdata[b*G*W +: G*W] = word[rindex*G*W +: G*W];
      initial begin
        for (int unsigned i = 0; i < DEPTH; i++) mem[i] = 0;
        q = 0;
      end
      always_ff @(posedge clk) begin
        if (wen && 32'(index) < WGROUPS && wmask[index[MW-1:0]]) mem[wa] <= wdata[index*G*W +: G*W];
        if (ren) q <= mem[ra];
      end
    end
  end
endmodule
